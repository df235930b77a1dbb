-- Of how many plays is the song known?
-- A row a month: all plays, those whose title and artist are in the song data, and these as a percentage. The other
-- plays count everywhere but in questions about songs and artists, which say what share they cover.
with listening as (
  select
    year, month, cast(start_time as date) as day, extract(hour from start_time) as hour,
    user_id, session_id, level, user_agent,
    coalesce(nullif(regexp_extract(location, ', *([A-Z][A-Z])(-[A-Z][A-Z])*$', 1), ''), 'unknown') as state,
    count(*) as plays, count(song_id) as matched, min(start_time) as first_play, max(start_time) as last_play
  from songplays
  group by 1, 2, 3, 4, 5, 6, 7, 8, 9
)
select
  year, month, cast(sum(plays) as bigint) as plays, cast(sum(matched) as bigint) as matched,
  1e2 * sum(matched) / sum(plays) as matched_percent
from listening
where year * 100 + month between year(:since) * 100 + month(:since) and year(:until) * 100 + month(:until)
  and day between :since and :until
  and (:level is null or level = :level)
  and (:state is null or state = :state)
group by year, month
order by year, month

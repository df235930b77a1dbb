-- How are the lengths of sessions distributed?
-- A row for each half hour of length: 0 for sessions shorter than 30 minutes, 30 for those shorter than 60, and so
-- on. Sessions and lengths are those of `sessions`.
with listening as (
  select
    year, month, cast(start_time as date) as day, extract(hour from start_time) as hour,
    user_id, session_id, level, user_agent,
    coalesce(nullif(regexp_extract(location, ', *([A-Z][A-Z])(-[A-Z][A-Z])*$', 1), ''), 'unknown') as state,
    count(*) as plays, count(song_id) as matched, min(start_time) as first_play, max(start_time) as last_play
  from songplays
  group by 1, 2, 3, 4, 5, 6, 7, 8, 9
),
sessions as (
  select
    user_id, session_id, min(day) as day, sum(plays) as plays,
    date_diff('millisecond', min(first_play), max(last_play)) / 6e4 as minutes
  from listening
  where year * 100 + month between year(:since) * 100 + month(:since) and year(:until) * 100 + month(:until)
    and day between :since and :until
    and (:level is null or level = :level)
    and (:state is null or state = :state)
  group by user_id, session_id
)
select
  cast(floor(minutes / 30) * 30 as integer) as from_minutes, count(*) as sessions,
  cast(sum(plays) as bigint) as plays
from sessions
group by 1
order by from_minutes

-- In which US states do users listen?
-- The state is the two letters after the last comma of the play's location; of areas that span several states, such
-- as "NY-NJ-PA", it is the first. A location that does not end so, or is not known, counts as the state "unknown".
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
  state, cast(sum(plays) as bigint) as plays, count(distinct user_id) as users,
  1e2 * sum(plays) / sum(sum(plays)) over () as percent_of_plays
from listening
where year * 100 + month between year(:since) * 100 + month(:since) and year(:until) * 100 + month(:until)
  and day between :since and :until
  and (:level is null or level = :level)
  and (:state is null or state = :state)
group by state
order by plays desc, state

-- How many users listen each week?
-- A row for each ISO week, by its Monday, in which anything was played. A period that does not begin with a Monday
-- or end with a Sunday has shorter weeks at its ends.
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
  cast(date_trunc('week', day) as date) as week, count(distinct user_id) as users,
  cast(sum(plays) as bigint) as plays
from listening
where year * 100 + month between year(:since) * 100 + month(:since) and year(:until) * 100 + month(:until)
  and day between :since and :until
  and (:level is null or level = :level)
  and (:state is null or state = :state)
group by 1
order by week

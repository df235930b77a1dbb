-- How long are sessions, and how many songs do users play in one?
-- A row for each week (its Monday) in which sessions began. A session is what one user played under one session id;
-- its length is the time from the start of its first play to the start of its last one, since the lake does not say
-- when a song ended. Of sessions that reach beyond the period, only the plays inside it count.
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
  cast(date_trunc('week', day) as date) as week, count(*) as sessions, avg(plays) as plays_per_session,
  avg(minutes) as mean_minutes, max(minutes) as longest_minutes
from sessions
group by 1
order by week

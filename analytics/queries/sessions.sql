-- How long are sessions, and how many songs do users play in one?
-- A row for each week (its Monday) in which sessions began. A session is what one user played under one session id;
-- its length is the time from the start of its first play to the start of its last one, since the lake does not say
-- when a song ended. Of sessions that reach beyond the period, only the plays inside it count.
select
  cast(date_trunc('week', day) as date) as week, count(*) as sessions, avg(plays) as plays_per_session,
  avg(minutes) as mean_minutes, max(minutes) as longest_minutes
from sessions
group by 1
order by week

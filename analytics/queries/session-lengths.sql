-- How are the lengths of sessions distributed?
-- A row for each half hour of length: 0 for sessions shorter than 30 minutes, 30 for those shorter than 60, and so
-- on. Sessions and lengths are those of `sessions`.
select
  cast(floor(minutes / 30) * 30 as integer) as from_minutes, count(*) as sessions,
  cast(sum(plays) as bigint) as plays
from sessions
group by 1
order by from_minutes

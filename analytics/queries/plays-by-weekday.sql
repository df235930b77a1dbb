-- On which days of the week, and at which hours of these (UTC), do users listen?
-- A row for each weekday (1 = Monday to 7 = Sunday) and hour (0 to 23) in which anything was played.
select
  cast(date_diff('day', cast(date_trunc('week', day) as date), day) + 1 as integer) as weekday, hour,
  cast(sum(plays) as bigint) as plays
from selected
group by 1, hour
order by weekday, hour

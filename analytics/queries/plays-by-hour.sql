-- At which hours of the day (UTC) do users listen?
-- A row for each hour, 0 to 23, in which anything was played.
select hour, cast(sum(plays) as bigint) as plays, count(distinct user_id) as users
from selected
group by hour
order by hour

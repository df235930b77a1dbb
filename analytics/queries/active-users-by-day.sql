-- How many users listen each day?
-- A row for each day (UTC) on which anything was played. Plays without a user count as plays only.
select day, count(distinct user_id) as users, cast(sum(plays) as bigint) as plays
from selected
group by day
order by day

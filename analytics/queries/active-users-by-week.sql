-- How many users listen each week?
-- A row for each ISO week, by its Monday, in which anything was played. A period that does not begin with a Monday
-- or end with a Sunday has shorter weeks at its ends.
select
  cast(date_trunc('week', day) as date) as week, count(distinct user_id) as users,
  cast(sum(plays) as bigint) as plays
from selected
group by 1
order by week

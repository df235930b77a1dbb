-- How do free and paid listening compare, week by week?
-- A row for each week (its Monday) and level: plays at this level, and the users who played anything at it. A user
-- whose level changes within a week counts at both.
select
  cast(date_trunc('week', day) as date) as week, level, cast(sum(plays) as bigint) as plays,
  count(distinct user_id) as users
from selected
group by 1, level
order by week, level

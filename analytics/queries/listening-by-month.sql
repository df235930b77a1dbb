-- In which year and month did users listen most? The first row is the answer.
-- A row a month: plays, and the users who played anything.
select year, month, cast(sum(plays) as bigint) as plays, count(distinct user_id) as users
from selected
group by year, month
order by plays desc, year, month

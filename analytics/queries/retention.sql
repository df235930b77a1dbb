-- Do users come back? Retention of weekly cohorts.
-- A cohort is the users whose first play was in the same ISO week; cohort and weeks are given by their Mondays. A
-- row for each cohort that began within the period and each week until its end in which any of them played: weeks
-- since the first, users who played, size of the cohort, and the users as a percentage of it. First plays are looked
-- for in the whole lake up to the end of the period, among the plays of the chosen level and state.
with weeks as (
  select distinct user_id, cast(date_trunc('week', day) as date) as week
  from listening
  where year * 100 + month <= year(:until) * 100 + month(:until)
    and day <= :until
    and (:level is null or level = :level)
    and (:state is null or state = :state)
    and user_id is not null
),
members as (
  select user_id, week, min(week) over (partition by user_id) as cohort
  from weeks
),
counted as (
  select cohort, week, count(*) as users
  from members
  group by cohort, week
)
select
  cohort, cast(date_diff('day', cohort, week) / 7 as integer) as weeks_since, users,
  max(users) over (partition by cohort) as cohort_size,
  1e2 * users / max(users) over (partition by cohort) as percent
from counted
where cohort >= cast(date_trunc('week', :since) as date)
order by cohort, weeks_since

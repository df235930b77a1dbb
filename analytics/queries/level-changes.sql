-- When do users begin to pay, and when do they stop?
-- A row for each day (UTC) with a change between two consecutive plays of a user: conversions from free to paid, and
-- cancellations from paid to free. The earlier play may lie before the period. State and day are those of the later
-- one.
with level_changes as (
  select day, user_id, previous_level, level, state
  from (
    select
      *, lag(level) over (partition by user_id order by begins, session_id, level, state) as previous_level
    from level_runs
  ) as consecutive
  where level <> previous_level
)
select
  day,
  count(case when level = 'paid' then 1 end) as conversions,
  count(case when level = 'free' then 1 end) as cancellations
from level_changes
where day between :since and :until
  and (:state is null or state = :state)
group by day
order by day

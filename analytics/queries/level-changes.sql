-- When do users begin to pay, and when do they stop?
-- A row for each day (UTC) with a change between two consecutive plays of a user: conversions from free to paid, and
-- cancellations from paid to free. The earlier play may lie before the period. State and day are those of the later
-- one.
with level_changes as (
  select year, month, day, user_id, previous_level, level, state
  from (
    select
      year, month, cast(start_time as date) as day, user_id, level,
      coalesce(nullif(regexp_extract(location, ', *([A-Z][A-Z])(-[A-Z][A-Z])*$', 1), ''), 'unknown') as state,
      lag(level) over (partition by user_id order by start_time, session_id, songplay_id) as previous_level
    from songplays
    where user_id is not null
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

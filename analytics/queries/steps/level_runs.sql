-- What tells when a user's level changes: runs of plays at one level. A row of `listening` is such a run; where rows of a
-- user overlap, each single play is one.
with ordered as (
  select
    *, max(last_play) over (
      partition by user_id order by first_play, last_play rows between unbounded preceding and 1 preceding
    ) as reached
  from listening
  where user_id is not null
),
overlapping as (
  select distinct user_id
  from ordered
  where first_play <= reached
)
select year, month, day, user_id, session_id, level, state, first_play as begins
from ordered
where user_id not in (select user_id from overlapping)
union all
select
  year, month, cast(start_time as date) as day, user_id, session_id, level,
  coalesce(nullif(regexp_extract(location, ', *([A-Z][A-Z])(-[A-Z][A-Z])*$', 1), ''), 'unknown') as state,
  start_time as begins
from songplays
where user_id in (select user_id from overlapping)

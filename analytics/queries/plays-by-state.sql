-- In which US states do users listen?
-- The state is the two letters after the last comma of the play's location; of areas that span several states, such
-- as "NY-NJ-PA", it is the first. A location that does not end so, or is not known, counts as the state "unknown".
select
  state, cast(sum(plays) as bigint) as plays, count(distinct user_id) as users,
  1e2 * sum(plays) / sum(sum(plays)) over () as percent_of_plays
from selected
group by state
order by plays desc, state

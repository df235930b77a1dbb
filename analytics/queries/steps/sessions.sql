-- What one user played under one session id, as far as it was selected.
select
  user_id, session_id, min(day) as day, sum(plays) as plays,
  date_diff('millisecond', min(first_play), max(last_play)) / 6e4 as minutes
from selected
group by user_id, session_id

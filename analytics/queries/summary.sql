-- How much was listened to, and how much of it could be matched to a song?
-- One row: plays, users, sessions, plays of a known song, and these as a percentage of all plays.
select
  coalesce(cast(sum(plays) as bigint), 0) as plays,
  count(distinct user_id) as users,
  count(distinct concat(coalesce(cast(user_id as varchar), ''), '/', cast(session_id as varchar))) as sessions,
  coalesce(cast(sum(matched) as bigint), 0) as matched,
  1e2 * sum(matched) / sum(plays) as matched_percent
from selected

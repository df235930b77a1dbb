-- How much was listened to, and how much of it does the catalogue have?
-- One row: plays, users, sessions, plays with a song_id, plays with an artist_id, and these as percentages of all plays.
select
  coalesce(cast(sum(plays) as bigint), 0) as plays,
  count(distinct user_id) as users,
  count(distinct concat(coalesce(cast(user_id as varchar), ''), '/', cast(session_id as varchar))) as sessions,
  coalesce(cast(sum(songs_known) as bigint), 0) as songs_known,
  coalesce(cast(sum(artists_known) as bigint), 0) as artists_known,
  1e2 * sum(songs_known) / sum(plays) as songs_percent, 1e2 * sum(artists_known) / sum(plays) as artists_percent
from selected

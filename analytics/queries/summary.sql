-- How much was listened to, and how much of it could be matched to a song?
-- One row: plays, users, sessions, plays of a known song, and these as a percentage of all plays.
with listening as (
  select
    year, month, cast(start_time as date) as day, extract(hour from start_time) as hour,
    user_id, session_id, level, user_agent,
    coalesce(nullif(regexp_extract(location, ', *([A-Z][A-Z])(-[A-Z][A-Z])*$', 1), ''), 'unknown') as state,
    count(*) as plays, count(song_id) as matched, min(start_time) as first_play, max(start_time) as last_play
  from songplays
  group by 1, 2, 3, 4, 5, 6, 7, 8, 9
)
select
  coalesce(cast(sum(plays) as bigint), 0) as plays,
  count(distinct user_id) as users,
  count(distinct concat(coalesce(cast(user_id as varchar), ''), '/', cast(session_id as varchar))) as sessions,
  coalesce(cast(sum(matched) as bigint), 0) as matched,
  1e2 * sum(matched) / sum(plays) as matched_percent
from listening
where year * 100 + month between year(:since) * 100 + month(:since) and year(:until) * 100 + month(:until)
  and day between :since and :until
  and (:level is null or level = :level)
  and (:state is null or state = :state)

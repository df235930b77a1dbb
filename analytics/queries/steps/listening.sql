-- Plays by user, session, hour and all that questions tell apart: a tenth of the rows of songplays.
select
  year, month, cast(start_time as date) as day, extract(hour from start_time) as hour,
  user_id, session_id, level, user_agent,
  coalesce(nullif(regexp_extract(location, ', *([A-Z][A-Z])(-[A-Z][A-Z])*$', 1), ''), 'unknown') as state,
  count(*) as plays, count(song_id) as songs_known, count(artist_id) as artists_known,
  min(start_time) as first_play, max(start_time) as last_play
from songplays
group by 1, 2, 3, 4, 5, 6, 7, 8, 9

-- Plays with their names: title and artist as the log has them; song_id and artist_id where the catalogue has them, too.
select
  p.songplay_id, p.start_time, cast(p.start_time as date) as day, p.user_id, p.session_id, p.level, p.location,
  coalesce(nullif(regexp_extract(p.location, ', *([A-Z][A-Z])(-[A-Z][A-Z])*$', 1), ''), 'unknown') as state,
  e.song as title, e.artist, p.song_id, p.artist_id, p.song_id is not null as in_catalogue, p.year, p.month
from songplays as p
join play_names as e on e.songplay_id = p.songplay_id and e.year = p.year and e.month = p.month

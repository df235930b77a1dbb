-- Plays by song, day, level and state.
select
  year, month, cast(start_time as date) as day, level, song_id, artist_id,
  coalesce(nullif(regexp_extract(location, ', *([A-Z][A-Z])(-[A-Z][A-Z])*$', 1), ''), 'unknown') as state,
  count(*) as plays
from songplays
group by 1, 2, 3, 4, 5, 6, 7

-- Who played a song, and when? The latest plays first.
-- The song is given by its title in the log, or by its id in the catalogue; of an artist, if one is given.
select p.start_time, p.title, p.artist, p.user_id, u.first_name, u.last_name, p.level, p.location, p.session_id
from selected_plays as p
left join users as u on u.user_id = p.user_id
where (p.title = :song or p.song_id = :song)
  and (:artist is null or p.artist = :artist)
order by p.start_time desc, p.user_id, p.session_id, p.level, p.location
limit :limit

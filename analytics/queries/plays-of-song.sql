-- Who played a song, and when? The latest plays first.
-- The song is given by its id.
select p.start_time, p.user_id, u.first_name, u.last_name, p.level, p.location, p.session_id
from songplays as p
left join users as u on u.user_id = p.user_id
where p.year * 100 + p.month between year(:since) * 100 + month(:since) and year(:until) * 100 + month(:until)
  and cast(p.start_time as date) between :since and :until
  and p.song_id = :song
  and (:level is null or p.level = :level)
  and (
    :state is null
    or coalesce(nullif(regexp_extract(p.location, ', *([A-Z][A-Z])(-[A-Z][A-Z])*$', 1), ''), 'unknown') = :state
  )
order by p.start_time desc, p.songplay_id
limit :limit

-- Which songs did a user listen to?
-- The user is given by id or by first and last name, upper or lower case; users who share a name are told apart by
-- their ids. A row for each song, most played first, and one, with no title, for the plays whose song is not known.
-- percent_of_plays is the row's share of all plays of this user in the period.
select
  u.user_id, u.first_name, u.last_name, s.title, a.name as artist, count(*) as plays,
  1e2 * count(*) / sum(count(*)) over (partition by u.user_id) as percent_of_plays,
  min(p.start_time) as first_play, max(p.start_time) as last_play
from songplays as p
join users as u on u.user_id = p.user_id
left join songs as s on s.song_id = p.song_id
left join artists as a on a.artist_id = p.artist_id and p.song_id is not null
where p.year * 100 + p.month between year(:since) * 100 + month(:since) and year(:until) * 100 + month(:until)
  and cast(p.start_time as date) between :since and :until
  and (
    cast(u.user_id as varchar) = :user
    or lower(concat(coalesce(u.first_name, ''), ' ', coalesce(u.last_name, ''))) = lower(:user)
  )
group by u.user_id, u.first_name, u.last_name, p.song_id, s.title, a.name
order by u.user_id, case when p.song_id is null then 1 else 0 end, plays desc, s.title, p.song_id

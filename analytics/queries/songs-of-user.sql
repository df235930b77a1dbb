-- Which songs did a user listen to?
-- The user is given by id or by first and last name, upper or lower case; users who share a name are told apart by
-- their ids. A row for each title and artist in the log, most played first. percent_of_plays is the row's share of all
-- plays of this user in the period.
select
  u.user_id, u.first_name, u.last_name, p.title, p.artist, count(*) as plays,
  1e2 * count(*) / sum(count(*)) over (partition by u.user_id) as percent_of_plays, p.in_catalogue,
  min(p.start_time) as first_play, max(p.start_time) as last_play
from selected_plays as p
join users as u on u.user_id = p.user_id
where cast(u.user_id as varchar) = :user
  or lower(concat(coalesce(u.first_name, ''), ' ', coalesce(u.last_name, ''))) = lower(:user)
group by u.user_id, u.first_name, u.last_name, p.title, p.artist, p.in_catalogue
order by u.user_id, plays desc, p.title, p.artist

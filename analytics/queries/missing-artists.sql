-- Which artists that the catalogue lacks are played most? They are what to load next.
-- By the name in the log: plays, and of how many different titles.
select artist, count(*) as plays, count(distinct title) as titles
from selected_plays
where artist_id is null and artist is not null
group by artist
order by plays desc, artist
limit :limit

-- Which songs that the catalogue lacks are played most?
-- By title and artist in the log; artist_in_catalogue says whether other songs of the artist are there.
select title, artist, count(*) as plays, max(artist_id) is not null as artist_in_catalogue
from selected_plays
where song_id is null and title is not null
group by title, artist
order by plays desc, title, artist
limit :limit

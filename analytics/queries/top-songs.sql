-- Which songs are played most? With an artist, which of that artist's?
-- By title and artist in the log, whether the catalogue has the song (in_catalogue) or not; song_id is the catalogue's.
-- percent_of_plays is the song's share of all plays of the period; covered_percent, the same in each row, is the share of
-- plays that name a song at all.
with counted as (
  select title, artist, min(song_id) as song_id, count(*) as plays
  from selected_plays
  group by title, artist
),
shares as (
  select
    title, artist, song_id, plays, 1e2 * plays / sum(plays) over () as percent_of_plays,
    1e2 * sum(case when title is not null then plays else 0 end) over () / sum(plays) over () as covered_percent
  from counted
)
select title, artist, plays, percent_of_plays, song_id is not null as in_catalogue, song_id, covered_percent
from shares
where title is not null
  and (:artist is null or artist = :artist)
order by plays desc, title, artist
limit :limit

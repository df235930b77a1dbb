-- Which artists are played most?
-- By the name in the log, whether the catalogue has the artist (in_catalogue) or not; artist_id is the catalogue's.
-- percent_of_plays is the artist's share of all plays of the period; covered_percent, the same in each row, is the share
-- of plays that name an artist at all.
with counted as (
  select artist, min(artist_id) as artist_id, count(*) as plays
  from selected_plays
  group by artist
),
shares as (
  select
    artist, artist_id, plays, 1e2 * plays / sum(plays) over () as percent_of_plays,
    1e2 * sum(case when artist is not null then plays else 0 end) over () / sum(plays) over () as covered_percent
  from counted
)
select artist, plays, percent_of_plays, artist_id is not null as in_catalogue, artist_id, covered_percent
from shares
where artist is not null
order by plays desc, artist
limit :limit

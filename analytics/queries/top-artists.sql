-- Which artists are played most?
-- A play counts for the artist of its song or, where the song is not known, for the artist of that name.
-- percent_of_plays is the artist's share of all plays of the period, those without a known artist included;
-- covered_percent, the same in each row, is the share of plays of which the artist is known at all.
with chosen as (
  select artist_id, cast(sum(plays) as bigint) as plays
  from selected_songs
  group by artist_id
),
shares as (
  select
    artist_id, plays, 1e2 * plays / sum(plays) over () as percent_of_plays,
    1e2 * sum(case when artist_id is not null then plays else 0 end) over () / sum(plays) over () as covered_percent
  from chosen
)
select s.artist_id, a.name as artist, s.plays, s.percent_of_plays, s.covered_percent
from shares as s
join artists as a on a.artist_id = s.artist_id
order by s.plays desc, a.name, s.artist_id
limit :limit

-- Which songs are played most? With an artist's id, which of that artist's?
-- percent_of_plays is the song's share of all plays of the period, those without a known song included;
-- covered_percent, the same in each row, is the share of plays of which the song is known at all.
with chosen as (
  select song_id, cast(sum(plays) as bigint) as plays
  from selected_songs
  group by song_id
),
shares as (
  select
    song_id, plays, 1e2 * plays / sum(plays) over () as percent_of_plays,
    1e2 * sum(case when song_id is not null then plays else 0 end) over () / sum(plays) over () as covered_percent
  from chosen
)
select s.song_id, t.title, a.name as artist, s.plays, s.percent_of_plays, s.covered_percent
from shares as s
join songs as t on t.song_id = s.song_id
join artists as a on a.artist_id = t.artist_id
where :artist is null or t.artist_id = :artist
order by s.plays desc, t.title, s.song_id
limit :limit

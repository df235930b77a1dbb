-- Of how many plays does the catalogue have the song, and of how many the artist?
-- A row for each week (its Monday): all plays, those with a song_id, those with an artist_id, and these as percentages.
-- The other plays count everywhere, by what the log calls them.
select
  cast(date_trunc('week', day) as date) as week, cast(sum(plays) as bigint) as plays,
  cast(sum(songs_known) as bigint) as songs_known, cast(sum(artists_known) as bigint) as artists_known,
  1e2 * sum(songs_known) / sum(plays) as songs_percent, 1e2 * sum(artists_known) / sum(plays) as artists_percent
from selected
group by 1
order by week

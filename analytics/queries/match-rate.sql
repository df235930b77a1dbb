-- Of how many plays is the song known?
-- A row a month: all plays, those whose title and artist are in the song data, and these as a percentage. The other
-- plays count everywhere but in questions about songs and artists, which say what share they cover.
select
  year, month, cast(sum(plays) as bigint) as plays, cast(sum(matched) as bigint) as matched,
  1e2 * sum(matched) / sum(plays) as matched_percent
from selected
group by year, month
order by year, month

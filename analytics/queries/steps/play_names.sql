-- What the log calls each play, once. Of copies of an event that differ, the one counts that the job took, too.
select songplay_id, song, artist, year, month
from (
  select
    songplay_id, song, artist, year, month,
    row_number() over (partition by songplay_id order by level desc, song desc, artist desc) as copy
  from staging_events
  where songplay_id is not null
) as copies
where copy = 1

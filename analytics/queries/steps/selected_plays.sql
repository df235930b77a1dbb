-- The same in the chosen period, at the chosen level, in the chosen state.
select *
from named_plays
where year * 100 + month between year(:since) * 100 + month(:since) and year(:until) * 100 + month(:until)
  and day between :since and :until
  and (:level is null or level = :level)
  and (:state is null or state = :state)

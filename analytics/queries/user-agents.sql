-- With which programs do users listen?
-- A row for each user agent as the event gave it, null where it gave none. The questions `browsers` and
-- `operating-systems` are this one, with the user agents parsed by the ua-parser library.
select user_agent, cast(sum(plays) as bigint) as plays
from selected
group by user_agent
order by plays desc, user_agent

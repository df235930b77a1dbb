-- Which users have a name that contains a text, upper or lower case?
select user_id, first_name, last_name, gender, level
from users
where lower(concat(coalesce(first_name, ''), ' ', coalesce(last_name, ''))) like concat('%', lower(:user), '%')
  or cast(user_id as varchar) = :user
order by last_name, first_name, user_id
limit :limit

CREATE EXTERNAL TABLE IF NOT EXISTS `sparkify`.`users` (
  `user_id` bigint COMMENT 'Key',
  `first_name` string COMMENT 'From the latest event of the user',
  `last_name` string COMMENT 'From the latest event of the user',
  `gender` string COMMENT 'F, M or null, from the latest event of the user',
  `level` string COMMENT 'free or paid, from the latest event of the user'
)
COMMENT 'One row per user id in any event, with the attributes of the latest one.'
STORED AS PARQUET
LOCATION 's3://sparkify-dl-sp/sparkify-data/users/'
TBLPROPERTIES ('classification' = 'parquet', 'project' = 'sparkify');

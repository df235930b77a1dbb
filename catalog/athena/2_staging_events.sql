CREATE EXTERNAL TABLE IF NOT EXISTS `sparkify`.`staging_events` (
  `songplay_id` string COMMENT 'Key of songplays, which has copies once; null if the event is no play',
  `artist` string COMMENT 'Artist name as the player shows it, known to the song data or not',
  `first_name` string COMMENT 'First name of the user',
  `gender` string COMMENT 'F, M or null',
  `item_in_session` bigint COMMENT 'Number of the event in its session',
  `last_name` string COMMENT 'Last name of the user',
  `length` double COMMENT 'Seconds, of the song',
  `level` string COMMENT 'free or paid, at the time of the event',
  `location` string COMMENT 'Metropolitan area',
  `page` string COMMENT 'What the user did; NextSong is a play',
  `session_id` bigint COMMENT 'Session of the player',
  `song` string COMMENT 'Title as the player shows it, known to the song data or not',
  `ts` bigint COMMENT 'Time of the event in UTC: milliseconds since 1970',
  `user_agent` string COMMENT 'User agent, without quotes around it',
  `user_id` bigint COMMENT 'Key of users; null if the event names no user',
  `file` string COMMENT 'URI of the file that the event came in'
)
COMMENT 'Every valid event once per delivery, typed and cleaned.'
PARTITIONED BY (
  `year` int COMMENT 'Partition: year of ts, in UTC',
  `month` int COMMENT 'Partition: month of ts, 1 to 12'
)
STORED AS PARQUET
LOCATION 's3://sparkify-dl-sp/sparkify-data/staging_events/'
TBLPROPERTIES ('classification' = 'parquet', 'project' = 'sparkify');

CREATE EXTERNAL TABLE IF NOT EXISTS `sparkify`.`songplays` (
  `songplay_id` string COMMENT 'Key: MD5 of userId, sessionId, itemInSession and ts, joined by /',
  `start_time` timestamp COMMENT 'UTC, to the millisecond; key of time',
  `user_id` bigint COMMENT 'Key of users; null if the event names no user',
  `level` string COMMENT 'free or paid, at the time of the play',
  `song_id` string COMMENT 'Key of songs; null if no song matches',
  `artist_id` string COMMENT 'Key of artists, by the song or else by the artist name; null if neither matches',
  `session_id` bigint COMMENT 'Session of the player',
  `location` string COMMENT 'Metropolitan area, as the event gives it',
  `user_agent` string COMMENT 'User agent, without quotes around it'
)
COMMENT 'One row per song played; all times are UTC.'
PARTITIONED BY (
  `year` int COMMENT 'Partition: year of start_time',
  `month` int COMMENT 'Partition: month of start_time, 1 to 12'
)
STORED AS PARQUET
LOCATION 's3://sparkify-dl-sp/sparkify-data/songplays/'
TBLPROPERTIES ('classification' = 'parquet', 'project' = 'sparkify');

CREATE EXTERNAL TABLE IF NOT EXISTS `sparkify`.`songs` (
  `song_id` string COMMENT 'Key',
  `title` string COMMENT 'Title of the song',
  `duration` double COMMENT 'Seconds'
)
COMMENT 'One row per song.'
PARTITIONED BY (
  `year` int COMMENT 'Partition: year of the song; 0 means unknown',
  `artist_id` string COMMENT 'Partition: key of artists'
)
STORED AS PARQUET
LOCATION 's3://sparkify-dl-sp/sparkify-data/songs/'
TBLPROPERTIES ('classification' = 'parquet', 'project' = 'sparkify');

CREATE EXTERNAL TABLE IF NOT EXISTS `sparkify`.`staging_songs` (
  `song_id` string COMMENT 'Key of songs, which has one row of several records',
  `title` string COMMENT 'Title of the song',
  `duration` double COMMENT 'Seconds',
  `year` int COMMENT 'Year of the song; 0 or null means unknown',
  `artist_id` string COMMENT 'Key of artists, which has one row of several records',
  `artist_name` string COMMENT 'As spelled in this record',
  `artist_location` string COMMENT 'Free text',
  `artist_latitude` double COMMENT 'Degrees north',
  `artist_longitude` double COMMENT 'Degrees east',
  `file` string COMMENT 'URI of the file that the record came in'
)
COMMENT 'Every valid song record once per delivery, typed and cleaned.'
STORED AS PARQUET
LOCATION 's3://sparkify-dl-sp/sparkify-data/staging_songs/'
TBLPROPERTIES ('classification' = 'parquet', 'project' = 'sparkify');

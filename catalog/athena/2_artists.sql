CREATE EXTERNAL TABLE IF NOT EXISTS `sparkify`.`artists` (
  `artist_id` string COMMENT 'Key',
  `name` string COMMENT 'The most frequent spelling',
  `location` string COMMENT 'The most frequent one given; free text',
  `latitude` double COMMENT 'Degrees north',
  `longitude` double COMMENT 'Degrees east'
)
COMMENT 'One row per artist.'
STORED AS PARQUET
LOCATION 's3://sparkify-dl-sp/sparkify-data/artists/'
TBLPROPERTIES ('classification' = 'parquet', 'project' = 'sparkify');

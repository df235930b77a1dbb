CREATE EXTERNAL TABLE IF NOT EXISTS `sparkify`.`time` (
  `start_time` timestamp COMMENT 'Key: UTC, to the millisecond',
  `hour` int COMMENT '0 to 23',
  `day` int COMMENT 'Day of the month, 1 to 31',
  `week` int COMMENT 'ISO 8601 week, 1 to 53',
  `weekday` int COMMENT 'ISO 8601 day of the week: 1 is Monday, 7 is Sunday'
)
COMMENT 'One row per distinct start time of a play, in UTC.'
PARTITIONED BY (
  `year` int COMMENT 'Partition: calendar year',
  `month` int COMMENT 'Partition: 1 to 12'
)
STORED AS PARQUET
LOCATION 's3://sparkify-dl-sp/sparkify-data/time/'
TBLPROPERTIES ('classification' = 'parquet', 'project' = 'sparkify');

MSCK REPAIR TABLE `sparkify`.`songs`;
MSCK REPAIR TABLE `sparkify`.`time`;
MSCK REPAIR TABLE `sparkify`.`songplays`;
MSCK REPAIR TABLE `sparkify`.`staging_events`;

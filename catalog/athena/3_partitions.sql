MSCK REPAIR TABLE `sparkify`.`songs`;
MSCK REPAIR TABLE `sparkify`.`time`;
MSCK REPAIR TABLE `sparkify`.`songplays`;

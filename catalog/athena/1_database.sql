CREATE DATABASE IF NOT EXISTS `sparkify` COMMENT 'Sparkify data lake';

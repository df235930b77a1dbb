"""The exercise solved the usual way, to compare with: schema inference, globs, Python UDFs, Spark's defaults.

Written for this comparison in the style of public solutions, with their habits and without their mistakes that would
stop it; it takes every event for good and matches text as it is.
"""

from __future__ import annotations

import argparse
from datetime import datetime, timezone

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import (
    col,
    date_format,
    dayofmonth,
    hour,
    monotonically_increasing_id,
    month,
    udf,
    weekofyear,
    year,
)
from pyspark.sql.types import StringType, TimestampType

get_timestamp = udf(lambda ms: datetime.fromtimestamp(ms / 1000.0, timezone.utc), TimestampType())
get_datetime = udf(lambda ms: str(datetime.fromtimestamp(ms / 1000.0, timezone.utc)), StringType())


def create_spark_session() -> SparkSession:
    """A session with Spark's own settings."""
    return SparkSession.builder.appName("baseline").getOrCreate()


def process_song_data(spark: SparkSession, song_data: str, output: str) -> None:
    """Read the song files below a folder, write songs and artists."""
    df = spark.read.json(song_data + "/*/*/*/*.json")

    songs_table = df.select("song_id", "title", "artist_id", "year", "duration").dropDuplicates(["song_id"])
    songs_table.write.mode("overwrite").partitionBy("year", "artist_id").parquet(output + "/songs")

    artists_table = df.select(
        "artist_id",
        col("artist_name").alias("name"),
        col("artist_location").alias("location"),
        col("artist_latitude").alias("latitude"),
        col("artist_longitude").alias("longitude"),
    ).dropDuplicates(["artist_id"])
    artists_table.write.mode("overwrite").parquet(output + "/artists")


def process_log_data(spark: SparkSession, song_data: str, log_data: str, output: str) -> None:
    """Read the event files below a folder, write users, time and songplays."""
    df = spark.read.json(log_data + "/*/*/*.json")
    df = df.filter(df.page == "NextSong")

    users_table = df.select(
        col("userId").alias("user_id"),
        col("firstName").alias("first_name"),
        col("lastName").alias("last_name"),
        "gender",
        "level",
    ).dropDuplicates(["user_id"])
    users_table.write.mode("overwrite").parquet(output + "/users")

    df = df.withColumn("start_time", get_timestamp("ts")).withColumn("datetime", get_datetime("ts"))
    time_table = df.select("start_time", "datetime").dropDuplicates(["start_time"])
    time_table = time_table.select(
        "start_time",
        hour("datetime").alias("hour"),
        dayofmonth("datetime").alias("day"),
        weekofyear("datetime").alias("week"),
        month("datetime").alias("month"),
        year("datetime").alias("year"),
        date_format("datetime", "E").alias("weekday"),
    )
    time_table.write.mode("overwrite").partitionBy("year", "month").parquet(output + "/time")

    songplays_table = songplays(df, spark.read.json(song_data + "/*/*/*/*.json"))
    songplays_table.write.mode("overwrite").partitionBy("year", "month").parquet(output + "/songplays")


def songplays(df: DataFrame, song_df: DataFrame) -> DataFrame:
    """Events joined with the songs of the same title, artist and duration."""
    same_song = (df.song == song_df.title) & (df.artist == song_df.artist_name) & (df.length == song_df.duration)
    joined = df.join(song_df, same_song, "left")
    return joined.select(
        monotonically_increasing_id().alias("songplay_id"),
        "start_time",
        col("userId").alias("user_id"),
        "level",
        "song_id",
        "artist_id",
        col("sessionId").alias("session_id"),
        "location",
        col("userAgent").alias("user_agent"),
        year("datetime").alias("year"),
        month("datetime").alias("month"),
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("--song-data", "--log-data", "--output"):
        parser.add_argument(name, required=True, metavar="FOLDER")
    options = parser.parse_args()
    spark = create_spark_session()
    process_song_data(spark, options.song_data, options.output)
    process_log_data(spark, options.song_data, options.log_data, options.output)
    spark.stop()


if __name__ == "__main__":
    main()

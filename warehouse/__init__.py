"""The lake's tables in Amazon Redshift, for the analytics team that lives in SQL."""

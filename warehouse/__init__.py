"""The lake's five tables in Amazon Redshift, for the analytics team that lives in SQL."""

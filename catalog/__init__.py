"""The lake's seven tables in the Glue Data Catalog, for Athena, Spark, Redshift Spectrum and EMR."""

"""Published test sets read by one reader from their Parquet form or official tables: each a class of a few facts."""

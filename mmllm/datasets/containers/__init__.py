"""Where rows of data lie: one class per container (JSON lines, a JSON array, CSV, Parquet, folders, tar shards)."""

"""Random parts of a few thousand weights for tests, one file per group, each with a table ``TINY`` by registry name."""

"""The peers' own scorers on the same predictions: where scores differ, and what the published definition says."""

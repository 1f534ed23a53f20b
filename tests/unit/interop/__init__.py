"""Ways out of a run."""

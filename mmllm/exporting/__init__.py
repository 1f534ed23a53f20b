"""Ways out of a run: folders that other software loads, written and then compared with the run itself."""

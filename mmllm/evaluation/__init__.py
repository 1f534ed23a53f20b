"""Evaluation of a run: benchmarks ask, ``generate`` answers, metrics score, ``results.json`` records."""

"""Pages of the documentation; ``python -m docs.make`` writes the parts of them that come from the code."""

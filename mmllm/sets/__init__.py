"""Several runs over the same frozen parts: what each learned is a set, and rows of all sets are answered in one batch."""

"""Several runs over the same frozen parts: what each learned is a set, and their rows are answered in one batch."""

"""Training and measurement of the miniature parts."""

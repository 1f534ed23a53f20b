"""The miniature world: scenes, digits and documents with their questions, and some text-only matters."""

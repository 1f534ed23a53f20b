"""Features of frozen encoders, kept on disk: computed once for every item, read by memory map ever after."""

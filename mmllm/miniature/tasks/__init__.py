"""Writers of the miniature training and test data, one a modality."""

"""What an imported model and transformers' own are shown to be compared, one file for each modality."""

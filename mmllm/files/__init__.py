"""What files and names of models and data tell by themselves, without torch; for checking and for loading alike."""

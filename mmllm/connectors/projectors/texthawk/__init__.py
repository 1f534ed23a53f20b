"""The ``texthawk`` projector: resampling and rearrangement of tiles, with positions of all of the picture."""

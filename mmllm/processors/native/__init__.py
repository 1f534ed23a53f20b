"""Pictures of any size as patches, without padding: the processor, and one file for each kind of image processor."""

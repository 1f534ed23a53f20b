"""What every part of the registry keeps, walked through its ``tiny()``."""

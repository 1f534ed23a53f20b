"""Towers of native resolution: pictures of any size, their patches packed, attention within each picture."""

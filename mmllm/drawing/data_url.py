"""Pictures as data URLs: how they travel in JSON and stand in a page that loads nothing from anywhere."""

from __future__ import annotations

import base64
import io

from PIL import Image


def data_url(picture: Image.Image) -> str:
    """Return a picture of any mode as ``data:image/png;base64,...``."""
    buffer = io.BytesIO()
    # PNG has no CMYK or float pictures
    picture.convert("RGBA").save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

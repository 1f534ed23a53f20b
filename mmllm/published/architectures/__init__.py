"""One file for each kind of published model: its encoders and connectors as a recipe has them.

A file has one function, ``sections(source) -> Sections``; the table says which file a model's ``model_type`` means.
"""

from __future__ import annotations

from collections.abc import Mapping

TABLE: Mapping[str, str] = {
    "llava": "llava",
    "llava_next": "llava_next",
    "llava_next_video": "llava_next",
    "llava_onevision": "llava_onevision",
    "internvl": "internvl",
    "aya_vision": "aya_vision",
    "deepseek_vl": "deepseek_vl",
    "idefics3": "idefics3",
    "smolvlm": "idefics3",
}
"""``model_type`` of a configuration -> file of this folder."""

"""Whether models are being laid out without numbers; loaders then make them from their configurations alone.

``mmllm plan`` builds a recipe's model with torch's default device set to ``meta``: tensors have shapes and types, and
take no memory. What reads weights from files asks here first, and leaves the files closed.
"""

from __future__ import annotations

import torch


def weightless() -> bool:
    """Whether tensors made now hold no numbers."""
    # not torch.get_default_device(): that knows nothing of `with torch.device(...)`
    return torch.empty(0).is_meta

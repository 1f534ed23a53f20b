"""transformers' LLaVA with the very tensors of a model of ours: what a user would run instead."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from mmllm.model.model import MultimodalLM
from mmllm.types import IGNORE_INDEX, Batch

IMAGE = 31_999
"""Id that marks a place of the picture: the last of the smaller vocabulary, which no text has."""


def llava(model: MultimodalLM, parts: Path, vocab: int, resolutions: Sequence[Sequence[int]] | None = None) -> Any:
    """LlavaForConditionalGeneration, frozen but for its projector, sharing every tensor with ``model``.

    ``model`` has the encoder and connector ``image`` (``hf_vision``, ``layers: [-2]``; ``mlp``). ``resolutions``: those
    of its tiles, which are stitched; then it is LlavaNextForConditionalGeneration, whose newline learns too.
    """
    from transformers import AutoConfig, Qwen2Config

    kind = "Llava" if resolutions is None else "LlavaNext"
    tiles = {} if resolutions is None else {"image_grid_pinpoints": [list(one) for one in resolutions]}
    config = getattr(transformers, f"{kind}Config")(
        vision_config=AutoConfig.from_pretrained(parts / "vit"),
        # read anew: LlavaConfig resets the attention in the config it is given, and ours shares it with its LLM
        text_config=Qwen2Config.from_pretrained(parts / f"llm_{vocab}"),
        image_token_id=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
        **tiles,
    )
    config._attn_implementation = "sdpa"
    other = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    encoder: Any = model.encoders["image"]
    tower: nn.Module = encoder.vision if resolutions is None else encoder.image.vision
    linears = [one for one in model.connectors["image"].modules() if isinstance(one, nn.Linear)]
    projector = other.model.multi_modal_projector
    pairs = [
        (other.model.vision_tower, tower),
        (other.model.language_model, model.llm.model.model),
        (other.lm_head, model.llm.model.lm_head),
        (projector.linear_1, linears[0]),
        (projector.linear_2, linears[1]),
    ]
    for theirs, ours in pairs:
        own = {name: tensor for name, tensor in ours.state_dict().items() if name in theirs.state_dict()}
        theirs.load_state_dict(own, assign=True, strict=False)
    missed = [name for name, tensor in other.named_parameters() if not _shared(tensor, model)]
    # the tower's own last norm is read by none of the features
    assert all("post_layernorm" in name or name == "model.image_newline" for name in missed), missed
    other.requires_grad_(False)
    for one in (projector.linear_1, projector.linear_2):  # parameters of its own: ours have gradients of theirs
        for name, tensor in list(one.named_parameters()):
            setattr(one, name, nn.Parameter(tensor.detach().clone()))
    if resolutions is not None:
        newline: Any = model.connectors["image"].stitch
        other.model.image_newline = nn.Parameter(newline.newline.detach().clone())
    return other.eval()


def _shared(tensor: Tensor, model: MultimodalLM) -> bool:
    return any(tensor.data_ptr() == own.data_ptr() for own in model.parameters())


def padded(batch: Batch, **pictures: Tensor) -> dict[str, Tensor]:
    """The conversations of a packed batch as LLaVA's collator gives them: padded on the right, a picture each."""
    bounds = batch.cu_seqlens.tolist()
    ids = torch.where(batch.media_ids >= 0, IMAGE, batch.input_ids)
    rows = [slice(a, b) for a, b in pairwise(bounds)]
    longest = max(row.stop - row.start for row in rows)

    def stacked(values: Tensor, fill: int) -> Tensor:
        return torch.stack([F.pad(values[row], (0, longest - (row.stop - row.start)), value=fill) for row in rows])

    return {
        "input_ids": stacked(ids, 0),
        "labels": stacked(batch.labels, IGNORE_INDEX),
        "attention_mask": stacked(torch.ones_like(ids), 0),
        **pictures,
    }


class Loop:
    """The rest of a plain training loop: backward, clipping, AdamW at a rate of 0, so that no weight moves."""

    def __init__(self, model: Any) -> None:
        self.learning = [tensor for tensor in model.parameters() if tensor.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learning, lr=0.0, fused=True)

    def __call__(self, loss: Tensor) -> float:
        """Finish the step of this loss."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learning, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


class NeverStopped:
    """Stands for the signals of a run that nobody stops."""

    received = 0


def with_lora(other: Any, model: MultimodalLM) -> Any:
    """The same model with peft's LoRA on every linear layer of the LLM, its weights those of our connector ``lora``."""
    from peft import LoraConfig, get_peft_model

    wanted = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    get_peft_model(other, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=wanted))
    other.model.multi_modal_projector.requires_grad_(True)
    ours: dict[str, Any] = {_letters(name): layer for name, layer in model.connectors["lora"].layers.items()}  # type: ignore[operator, union-attr]
    for name, module in other.named_modules():
        if "lora_A" in dict(module.named_children()) and len(module.lora_A):
            (mine,) = [
                layer for key, layer in ours.items() if key.endswith(_letters(name.split("language_model.")[-1]))
            ]
            with torch.no_grad():
                module.lora_A["default"].weight.copy_(mine.a.weight)
                module.lora_B["default"].weight.copy_(mine.b.weight)
    return other


def _letters(name: str) -> str:
    return "".join(letter for letter in name if letter.isalnum())

"""The class that vLLM makes for a folder of ``mmllm export --to vllm``: a run's pictures in front of vLLM's own LLM.

Only vLLM imports this module: it derives from its base classes, as they are in 0.32 and 0.33.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature
from vllm.config import VllmConfig
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.inputs import MultiModalDataDict
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsMultiModal
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)
from vllm.sequence import IntermediateTensors

from mmllm.exporting.llava import MARK
from mmllm.exporting.vllm.config import MmllmConfig
from mmllm.exporting.vllm.media import Media

SIDE = 336
"""Width and height of the pictures with which vLLM measures memory; all take the same number of tokens."""


class ProcessingInfo(BaseProcessingInfo):
    """What vLLM has to know before it reads pictures."""

    def get_hf_config(self) -> MmllmConfig:
        """The folder's configuration."""
        return self.ctx.get_hf_config(MmllmConfig)

    @cached_property
    def media(self) -> Media:
        """Reads pictures; the weights are in the process that runs the model."""
        return Media.of(self.model_id).without_weights()

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Pictures, as many as a prompt shows."""
        return {"image": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Tokens of a picture."""
        return {"image": self.get_hf_config().tokens_per_image}


class DummyInputsBuilder(BaseDummyInputsBuilder[ProcessingInfo]):
    """Prompts of blank pictures."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """The mark of a picture, as often as there are some."""
        return self.info.get_hf_config().image_token * mm_counts.get("image", 0)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: MultiModalDummyOptions
    ) -> MultiModalDataDict:
        """The pictures."""
        n, overrides = mm_counts.get("image", 0), mm_options.get("image")
        return {"image": self._get_dummy_images(width=SIDE, height=SIDE, num_images=n, overrides=overrides)}


class Processor(BaseMultiModalProcessor[ProcessingInfo]):
    """Reads pictures as the run does, and gives each its places in the prompt."""

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        if hf_kwargs:
            raise ValueError(
                f"the run says how pictures are read; leave {', '.join(hf_kwargs)} out (mm_processor_kwargs)"
            )
        pictures: Any = hf_data["images"]
        read = [self.info.media.read(picture) for picture in pictures]
        return BatchFeature({name: _stacked([one[name] for one in read]) for name in read[0]})

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {name: MultiModalFieldConfig.batched("image") for name in hf_inputs}

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        config = self.info.get_hf_config()
        mark = [config.image_token_id]
        return [PromptReplacement(modality="image", target=mark, replacement=mark * config.tokens_per_image)]


@MULTIMODAL_REGISTRY.register_processor(Processor, info=ProcessingInfo, dummy_inputs=DummyInputsBuilder)
class MmllmForConditionalGeneration(nn.Module, SupportsMultiModal):
    """Encoders and projector of a run, and the LLM that vLLM knows by its architecture."""

    media: Media
    language_model: Any

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Mark of a picture, for chat templates of texts alone; the exported one takes parts."""
        if modality != "image":
            raise ValueError(f"runs are served with pictures alone by vLLM, not with {modality}")
        return MARK

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        """``vllm_config``: of the folder; ``prefix``: what vLLM calls this module."""
        super().__init__()
        config: MmllmConfig = vllm_config.model_config.hf_config
        self.config = config
        self.configure_mm_token_handling(config.text_config.vocab_size, [config.image_token_id])  # type: ignore[operator]
        with self._mark_tower_model(vllm_config, "image"):  # type: ignore[operator]
            self.media = _placed(vllm_config)
        with self._mark_language_model(vllm_config):  # type: ignore[operator]
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config, hf_config=config.text_config, prefix=maybe_prefix(prefix, "language_model")
            )

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        """One [n_tokens, D] for each picture of ``kwargs``, which the processor made."""
        inputs: dict[str, Any] = {name: value for name, value in kwargs.items() if "." in name}
        if not inputs:
            return []
        pictures = [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)]
        return self.media(pictures).to(self.dtype).unbind()

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: MultiModalEmbeddings | None = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """Embeddings float[S, D] of ids int64[S], with those of pictures where ``is_multimodal``."""
        if self._has_oov_mm_tokens:
            # vLLM takes the mark for a picture's place also where somebody typed it: the table has no row for it then,
            # and reading behind its end would stop the whole server
            input_ids = input_ids.masked_fill(input_ids == self.config.image_token_id, 0)
        return super().embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)

    @property
    def dtype(self) -> torch.dtype:
        """In which the LLM computes."""
        return next(self.language_model.parameters()).dtype

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor | IntermediateTensors:
        """Hidden states of the LLM; pictures are in ``inputs_embeds`` already."""
        return self.language_model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits of the LLM."""
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """The LLM takes all that lies in the folder itself; pictures have theirs already, and a check of them."""
        loaded = {f"language_model.{name}" for name in self.language_model.load_weights(weights)}
        return loaded | {f"media.{name}" for name, _ in self.media.named_parameters()}


def _placed(vllm_config: VllmConfig) -> Media:
    """The media's parts where the model is, encoders in its dtype."""
    wanted = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)  # vLLM makes models in their own, and digests are of float32
        with torch.device("cpu"):
            media = Media.of(vllm_config.model_config.model)
    finally:
        torch.set_default_dtype(wanted)
    return media.cast(vllm_config.model_config.dtype).to(vllm_config.device_config.device)


def _stacked(tensors: list[Tensor]) -> Tensor | list[Tensor]:
    """One tensor with a further first axis where all are of one shape."""
    return torch.stack(tensors) if len({tensor.shape for tensor in tensors}) == 1 else tensors

"""Imported once by the server that starts the training tests' processes, so that each of them starts at once."""

from mmllm.training import distributed

distributed.accelerator()
distributed.without_own_all_reduce()

import open_clip  # noqa: E402, F401
import peft  # noqa: E402, F401
import transformers.models.clip.modeling_clip  # noqa: E402
import transformers.models.llama.modeling_llama  # noqa: E402
import transformers.models.vit.modeling_vit  # noqa: E402, F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping  # noqa: E402

import mmllm.connectors.llm_adapters.lora  # noqa: E402
import mmllm.connectors.projectors.mlp  # noqa: E402
import mmllm.datasets.chat  # noqa: E402
import mmllm.encoders.image.hf_vision  # noqa: E402
import mmllm.training.run  # noqa: E402, F401

# each of two ranks would import what tiny parts are made of
import tests.distributed.media_rank  # noqa: E402
import tests.distributed.published_rank  # noqa: E402, F401
from mmllm import registry  # noqa: E402

# computed once in a process: what packages declare, and the thousand patterns of names in checkpoints
for group in registry.groups():
    registry.table(group)
get_checkpoint_conversion_mapping("llama")

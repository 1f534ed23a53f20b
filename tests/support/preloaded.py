"""Imported once by the server that starts the training tests' processes, so that each of them starts at once."""

from mmllm.training import distributed

distributed.accelerator()

import deepspeed  # noqa: E402, F401
import open_clip  # noqa: E402, F401
import peft  # noqa: E402, F401
import transformers.models.clip.modeling_clip  # noqa: E402
import transformers.models.llama.modeling_llama  # noqa: E402
import transformers.models.vit.modeling_vit  # noqa: E402, F401

import mmllm.connectors.llm_adapters.lora  # noqa: E402
import mmllm.connectors.projectors.mlp  # noqa: E402
import mmllm.datasets.chat  # noqa: E402
import mmllm.encoders.image.hf_vision  # noqa: E402
import mmllm.training.run  # noqa: E402, F401

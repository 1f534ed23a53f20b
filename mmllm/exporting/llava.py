"""A vision tower, an ``mlp`` and any LLM as LLaVA (Liu et al. 2023, arXiv 2310.03744), which holds most such runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPImageProcessor,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.errors import MmllmError
from mmllm.exporting.weights import hand_over, release, with_rows
from mmllm.model.inputs import Input
from mmllm.model.model import MultimodalLM
from mmllm.processors.image import HfTransform
from mmllm.recipe.models import Recipe
from mmllm.types import SEQUENTIAL
from mmllm.vlms.quiet import quiet

MARK = "<image>"
"""Token of a picture, where the run has none of its own."""
PARTS = """{%- set ns = namespace(turns=[]) -%}
{%- for message in messages -%}
{%- if message['content'] is string -%}{%- set ns.turns = ns.turns + [message] -%}
{%- else -%}
{%- set inner = namespace(lines=[]) -%}
{%- for part in message['content'] -%}
{%- set inner.lines = inner.lines + ['MARK' if part['type'] == 'image' else part['text']] -%}
{%- endfor -%}
{%- set ns.turns = ns.turns + [{'role': message['role'], 'content': inner.lines | join('\n')}] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = ns.turns -%}
"""
"""In front of a template of texts: messages in parts become texts, each part on a line, MARK for a picture."""


def laid_out(recipe: Recipe, model: MultimodalLM, folder: Path) -> LlavaForConditionalGeneration:
    """Write processor, template and configuration, and return the model that they describe, still without weights.

    Raises:
        MmllmError: LLaVA does not compute what the run does; says what of it.
    """
    entry, encoder, connector = _parts(model)
    _head(model)
    tokenizer = copy.deepcopy(model.llm.tokenizer)
    # a tokenizer that has a picture's token by name gives it to every processor
    own = tokenizer.image_token if hasattr(tokenizer, "image_token") else MARK
    mark = entry.place.token or own
    text, number = _text(model, tokenizer, mark)
    config = LlavaConfig(
        vision_config=copy.deepcopy(encoder.vision.config),
        text_config=text,
        image_token_index=number,
        projector_hidden_act=recipe.connectors[entry.key].args.get("activation", "gelu"),
        vision_feature_select_strategy="default" if encoder.prefix else "full",
        vision_feature_layer=_layers(encoder),
        multimodal_projector_bias=_linears(connector)[0].bias is not None,
        tie_word_embeddings=text.tie_word_embeddings,
        architectures=[LlavaForConditionalGeneration.__name__],
    )
    with quiet(), torch.device("meta"):
        theirs = LlavaForConditionalGeneration(config)
    theirs.generation_config = _generation(model, number, text.vocab_size > model.llm.vocab_size)
    _processor(encoder, tokenizer, mark, entry).save_pretrained(folder)
    config.save_pretrained(folder)
    return theirs


def fill(theirs: LlavaForConditionalGeneration, model: MultimodalLM) -> None:
    """Give the weights of a run to the model laid out for it, tensor by tensor; the run has none afterwards."""
    _, encoder, connector = _parts(model)
    parts = {
        "model.vision_tower": encoder.vision.state_dict(),
        "model.language_model": model.llm.decoder.state_dict(),
        **{
            f"model.multi_modal_projector.linear_{n}": layer.state_dict()
            for n, layer in enumerate(_linears(connector), 1)
        },
    }
    if not theirs.config.tie_word_embeddings:
        parts["lm_head"] = _head(model).state_dict()
    release(model)
    wanted = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    for part, tensors in parts.items():
        while tensors:  # given away as they go, so that a table with a further row does not stand beside the old one
            name, tensor = tensors.popitem()
            place = f"{part}.{name}"
            if place not in wanted:
                raise _unfit(f"it has no weight {place}, which this run has")
            # a row for the picture's token: as likely as any, and never said
            hand_over(theirs, {place: with_rows(tensor, wanted[place][0]) if tensor.dim() == 2 else tensor})
    theirs.tie_weights()
    lacking = [name for name, tensor in theirs.state_dict().items() if tensor.is_meta]
    for name in lacking:  # of a pooler that nothing reads: no drawn numbers in a file
        if ".pooler." not in name:
            raise _unfit(f"its {name} has no weights in this run")
        hand_over(theirs, {name: torch.zeros(wanted[name])})


def _parts(model: MultimodalLM) -> tuple[Input, HfVisionEncoder, MlpConnector]:
    if len(model.inputs) != 1:
        known = ", ".join(model.inputs) or "none"
        raise _unfit(f"it takes one kind of picture, and this run's placeholders are {known}")
    (entry,) = model.inputs.values()
    encoder = next(iter(entry.encoders.values()))
    if len(entry.encoders) != 1 or not isinstance(encoder, HfVisionEncoder):
        kinds = ", ".join(type(one).__name__ for one in entry.encoders.values())
        raise _unfit(f"its tower is one of transformers for pictures (hf_vision), and this run has {kinds}")
    connector = entry.connector
    if not isinstance(connector, MlpConnector):
        raise _unfit(f"its projector is mlp of depth 2, and connectors.{entry.key} is {type(connector).__name__}")
    linears = _linears(connector)
    normed = bool(list(connector.norm.parameters()))
    if len(linears) != 2 or normed or linears[0].out_features != connector.llm_dim:
        why = f"connectors.{entry.key} is not"
        raise _unfit(f"its projector is two layers of the LLM's width without a norm, and {why}")
    if encoder.prefix > 1:
        raise _unfit(f"it drops one token in front of the patches, and this tower has {encoder.prefix}")
    if "final" in encoder.layers:
        raise _unfit("it reads layers of the tower by their numbers, and this run reads layers: [final]")
    if entry.text.times or entry.text.tiles or any(entry.text.around):
        raise _unfit(f"it writes no text around a picture, and connectors.{entry.key} has times, tiles or around")
    if model.llm.prefix or entry.text.bidirectional:
        raise _unfit("its LLM is causal everywhere, and this run has llm.attention: prefix or attends: bidirectional")
    if model.llm.positions != SEQUENTIAL:
        raise _unfit("its LLM counts positions on one axis, and this run's on three (M-RoPE)")
    if MODEL_MAPPING.get(type(encoder.vision.config), None) is not type(encoder.vision):
        raise _unfit(f"transformers has no AutoModel for a {type(encoder.vision).__name__}")
    return entry, encoder, connector


def _unfit(why: str) -> MmllmError:
    return MmllmError(f"--to hf: no model of transformers is known that computes what this run does; of LLaVA, {why}")


def _layers(encoder: HfVisionEncoder) -> int | list[int]:
    layers = [int(layer) for layer in encoder.layers]
    return layers[0] if len(layers) == 1 else layers


def _text(model: MultimodalLM, tokenizer: Any, mark: str) -> tuple[Any, int]:
    """Config of the LLM, and the id of the picture's token: a row that the table has to spare, or a new one."""
    text = copy.deepcopy(model.llm.model.config.get_text_config())
    if mark not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [mark]}, replace_extra_special_tokens=False)
    number = int(tokenizer.convert_tokens_to_ids(mark))
    text.vocab_size = max(text.vocab_size, model.llm.vocab_size, number + 1)
    return text, number


def _linears(connector: MlpConnector) -> list[torch.nn.Linear]:
    return [layer for layer in connector.mlp if isinstance(layer, torch.nn.Linear)]


def _head(model: MultimodalLM) -> Any:
    head = model.llm.model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or head.bias is not None:
        raise _unfit("its head is one layer without a bias, and this LLM has another")
    return head


def _generation(model: MultimodalLM, number: int, added: bool) -> GenerationConfig:
    found = copy.deepcopy(model.llm.model.generation_config) or GenerationConfig()
    if added:
        found.suppress_tokens = sorted({*(found.suppress_tokens or ()), number})
    return found


def _processor(encoder: HfVisionEncoder, tokenizer: Any, mark: str, entry: Input) -> LlavaProcessor:
    transform = encoder.processor.transform
    assert isinstance(transform, HfTransform)
    own = transform.processor
    height, width = transform.size
    if transform.fit == "squash":
        words = {word: getattr(own, word) for word in ("resample", "image_mean", "image_std", "rescale_factor")}
        pictures: Any = CLIPImageProcessor(size={"height": height, "width": width}, do_center_crop=False, **words)
    elif (transform.fit == "crop" and transform.own_size) or transform.fit == "own":
        pictures = own
    else:
        raise _unfit(f"no image processor of transformers does what fit: {transform.fit} does here; use squash or crop")
    template = tokenizer.chat_template
    if entry.place.token is None:
        template = PARTS.replace("MARK", mark) + template
    tokenizer.chat_template = template
    return LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=encoder.processor.patch[0],
        vision_feature_select_strategy="default" if encoder.prefix else "full",
        num_additional_image_tokens=encoder.prefix,
        chat_template=template,
        image_token=mark,
    )

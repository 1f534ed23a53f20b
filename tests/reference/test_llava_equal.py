"""The model equals transformers' LlavaForConditionalGeneration with the same weights and the same batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration

from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.model.model import MultimodalLM
from mmllm.types import IGNORE_INDEX, Batch
from tests.support.parts import tiny_llm, tiny_model, tiny_vision_folder

IMAGE = 383
"""LLaVA's image token; our rows hold 0 at places, which must make no difference."""
PATCHES = 16


def llava_of(
    model: MultimodalLM, family: str, folder: Path, kind: str, layers: list[int]
) -> LlavaForConditionalGeneration:
    """A LLaVA with the tensors of ``assembly``; every one of its weights is set."""
    chosen = layers[0] if len(layers) == 1 else layers
    language = tiny_model(family)
    config = LlavaConfig(
        vision_config=AutoConfig.from_pretrained(folder),
        text_config=language.config,
        image_token_index=IMAGE,
        image_seq_length=PATCHES,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="full" if kind == "siglip" else "default",
        vision_feature_layer=chosen,
        tie_word_embeddings=language.config.tie_word_embeddings,
    )
    llava = LlavaForConditionalGeneration(config).eval()
    vision = model.encoders["image"].vision.state_dict()
    first, second = [m for m in model.connectors["image"].modules() if isinstance(m, torch.nn.Linear)]
    weights = {f"model.vision_tower.{name}": tensor for name, tensor in vision.items()}
    for name, tensor in language.state_dict().items():
        weights["model.language_model." + name.removeprefix("model.") if name.startswith("model.") else name] = tensor
    for name, layer in (("linear_1", first), ("linear_2", second)):
        weights |= {f"model.multi_modal_projector.{name}.{part}": t for part, t in layer.state_dict().items()}
    llava.load_state_dict(weights)
    return llava


def conversations() -> list[tuple[torch.Tensor, torch.Tensor, int]]:
    """(ids with IMAGE at places, labels, number of images) of four samples: two, one, none, one picture."""
    generator = torch.Generator().manual_seed(3)

    def text(n: int) -> torch.Tensor:
        return torch.randint(3, 300, (n,), generator=generator)

    picture = torch.full((PATCHES,), IMAGE)
    rows = [
        ([text(4), picture, text(3), picture, text(9)], 2),
        ([picture, text(12)], 1),
        ([text(7)], 0),
        ([text(20), picture, text(5)], 1),
    ]
    samples = []
    for pieces, n_images in rows:
        ids = torch.cat(pieces)
        labels = torch.full_like(ids, IGNORE_INDEX)
        labels[-4:] = ids[-4:]
        samples.append((ids, labels, n_images))
    return samples


def packed(samples: list[tuple[torch.Tensor, torch.Tensor, int]], pixels: torch.Tensor) -> Batch:
    """The same samples as one row of ours."""
    ids, labels = torch.cat([s[0] for s in samples]), torch.cat([s[1] for s in samples])
    lengths = torch.tensor([len(s[0]) for s in samples])
    places = (ids == IMAGE).nonzero().squeeze(-1)
    media_ids = torch.full_like(ids, -1)
    media_ids[places] = torch.arange(len(places)) // PATCHES
    return Batch(
        input_ids=ids.masked_fill(ids == IMAGE, 0),
        labels=labels,
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
        cu_seqlens=F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32),
        sequence_ids=torch.repeat_interleave(torch.arange(len(samples)), lengths),
        media_ids=media_ids,
        media={"image": {"image": {"pixels": pixels}}},
        media_positions={"image": places},
        item_starts={"image": places[::PATCHES]},
        item_sequence={"image": torch.repeat_interleave(torch.arange(len(samples)), lengths)[places[::PATCHES]]},
        dataset_names=[""] * len(samples),
        names=[f"sample {n}" for n in range(len(samples))],
    )


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize(("kind", "layers"), [("clip", [-2]), ("clip", [-3, -1]), ("siglip", [-2])])
def test_logits_loss_and_gradients_equal_llava(family: str, kind: str, layers: list[int], tmp_path: Path) -> None:
    """Four samples, padded for LLaVA and packed for us: logits, loss and the projector's gradients within 1e-5."""
    folder = tiny_vision_folder(tmp_path, kind)
    encoder = HfVisionEncoder(model=str(folder), layers=layers)
    llm = tiny_llm(family)
    connector = MlpConnector(dim=encoder.dim * len(layers), llm_dim=llm.dim)
    model = MultimodalLM(llm, {"image": encoder}, {"image": connector}, {"image": "image"}).eval()
    llava = llava_of(model, family, folder, kind, layers)
    samples = conversations()
    pixels = torch.randn(sum(s[2] for s in samples), 3, 28, 28, generator=torch.Generator().manual_seed(4))
    longest = max(len(ids) for ids, _, _ in samples)
    theirs = llava(
        input_ids=torch.stack([F.pad(ids, (0, longest - len(ids))) for ids, _, _ in samples]),
        labels=torch.stack([F.pad(labels, (0, longest - len(labels)), value=IGNORE_INDEX) for _, labels, _ in samples]),
        attention_mask=torch.stack([(torch.arange(longest) < len(ids)).long() for ids, _, _ in samples]),
        pixel_values=pixels,
    )
    batch = packed(samples, pixels)
    ours = model.logits(batch)
    expected = torch.cat([row[: len(sample[0])] for row, sample in zip(theirs.logits, samples, strict=True)])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    nll, extra, _ = model(batch)
    torch.testing.assert_close(nll / batch.n_labels, theirs.loss, atol=1e-5, rtol=1e-5)
    assert extra == 0
    theirs.loss.backward()
    (nll / batch.n_labels).backward()
    projector = llava.model.multi_modal_projector
    for mine, other in zip(connector.parameters(), projector.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)

"""``mova``: the adapter's equations restated, the deselected that add exactly 0, routing as text, the recipe."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from PIL import Image
from torch import Tensor

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, encode
from mmllm.connectors.projectors.mova.adapter import ExpertBlock, RotaryAttention
from mmllm.connectors.projectors.mova.mova import MovaConnector
from mmllm.errors import MmllmError, SampleError
from mmllm.messages.tokenize import Prompter
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import set_trainable
from mmllm.processors.routing import RoutedQuestion, routed
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.testing import check_projector
from mmllm.testing.tiny.published.blip import BERT
from mmllm.testing.tiny.weights import randomise
from mmllm.types import Features, Message, Sample
from tests.support.equations import affine, gelu, norm
from tests.support.parts import tiny_llm_folder
from tests.support.stand_ins import vision_folder
from tests.support.two_steps import two_steps

BASE, EXPERTS, LLM, HEADS = 8, (6, 4), 10, 2
GRIDS = ((4, 4), (4, 4), (2, 2))
WORDS: dict[str, Any] = {
    "experts": ("a", "b"), "dims": (BASE, *EXPERTS), "source_grid": (4, 4), "grid": (2, 2), "heads": HEADS, "depth": 2,
}  # fmt: skip
CHOSEN = torch.tensor([[True, True], [False, True], [False, False]])


def made(**words: Any) -> MovaConnector:
    torch.manual_seed(0)
    connector = MovaConnector(**{"dim": BASE + sum(EXPERTS), "llm_dim": LLM, **WORDS, **words})
    randomise(connector)
    return connector.eval()


def given(chosen: Tensor = CHOSEN, **extras: Tensor) -> list[Features]:
    """Features of items from a base and two experts, the second of them on a coarser map."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for dim, grid in zip((BASE, *EXPERTS), GRIDS, strict=True):
        x = torch.randn(len(chosen), math.prod(grid), dim, generator=generator)
        found.append(
            Features({-1: x}, torch.ones(x.shape[:2], dtype=torch.bool), grid, None, {"experts": chosen, **extras})
        )
    return found


# ---- the equations


def turned(x: Tensor) -> Tensor:
    """Rotary positions of one head float[16, d] on 4 x 4: half of the pairs by the row, the rest by the column."""
    found = x.clone()
    pairs = x.shape[-1] // 2
    for place in range(16):
        for pair in range(pairs):
            at = place // 4 if pair < pairs // 2 else place % 4
            angle = at * 10000 ** (-(pair % (pairs // 2)) / (pairs // 2))
            a, b = x[place, 2 * pair], x[place, 2 * pair + 1]
            found[place, 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
            found[place, 2 * pair + 1] = b * math.cos(angle) + a * math.sin(angle)
    return found


def attended(layer: RotaryAttention, x: Tensor, read: Tensor) -> Tensor:
    query, key, value = affine(x, layer.to_query), affine(read, layer.to_key), affine(read, layer.to_value)
    heads = [
        (turned(q) @ turned(k).T / math.sqrt(BASE / HEADS)).softmax(-1) @ v
        for q, k, v in zip(query.chunk(HEADS, -1), key.chunk(HEADS, -1), value.chunk(HEADS, -1), strict=True)
    ]
    return affine(norm(torch.cat(heads, -1), layer.norm), layer.output)


def block(layer: ExpertBlock, x: Tensor, experts: list[Tensor], chosen: list[bool], text: Tensor) -> Tensor:
    """One block on one item: a softmax over the chosen experts alone."""
    gate: Any = layer.gate
    logits = affine(gelu(affine(torch.cat([text, x.mean(0)]), gate[0])), gate[2])
    open_ones = [number for number, one in enumerate(chosen) if one]
    total = sum((logits[number].exp() for number in open_ones), start=torch.tensor(0.0))
    before = x
    for number in open_ones:
        cross: Any = layer.cross[number]
        read = norm(experts[number], layer.norms_experts[number])
        x = x + logits[number].exp() / total * attended(cross, norm(before, layer.norms[number]), read)
    x = x + attended(layer.attention, norm(x, layer.norm_self), norm(x, layer.norm_self))
    feed, entering = layer.feed, norm(x, layer.norm_feed)
    gated = affine(entering, feed.gate)
    return x + affine(norm(gated * torch.sigmoid(gated) * affine(entering, feed.value), feed.norm), feed.output)


def stretched(x: Tensor) -> Tensor:
    """A map of 2 x 2, float[4, D], on 4 x 4 between the centres of its patches."""
    share = torch.tensor([[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]])
    return torch.einsum("ra,cb,abd->rcd", share, share, x.reshape(2, 2, -1)).flatten(0, 1)


def reference(connector: MovaConnector, features: list[Features], text: Tensor) -> Tensor:
    """All of it but the RegNet blocks, which are timm's."""
    found = []
    for item in range(len(features[0].mask)):
        x, first, second = (one.layers[-1][item] for one in features)
        chosen = features[0].extras["experts"][item].tolist()
        read = x + connector.positions
        for layer in connector.blocks:
            assert isinstance(layer, ExpertBlock)
            read = block(layer, read, [first, stretched(second)], chosen, text[item])
        maps = connector.before(((read + x) / 2).T.reshape(1, BASE, 4, 4))
        maps = maps.reshape(1, BASE, 2, 2, 2, 2).mean(dim=(3, 5))
        found.append(connector.after(maps)[0].flatten(1).T)
    mlp: Any = connector.mlp
    return affine(gelu(affine(torch.stack(found), mlp[0])), mlp[2])


@torch.no_grad()
def test_it_is_the_papers() -> None:
    connector, features = made(), given()
    assert connector.out_grid(*GRIDS) == (2, 2)
    expected = reference(connector, features, torch.zeros(3, 0))
    torch.testing.assert_close(connector(*features), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_untrained_it_is_the_base_through_its_positions() -> None:
    """What starts at zero: attention, feed-forward and RegNet's last layers."""
    torch.manual_seed(0)
    connector, features = MovaConnector(dim=BASE + sum(EXPERTS), llm_dim=LLM, **WORDS).eval(), given()
    x = features[0].layers[-1].reshape(3, 2, 2, 2, 2, BASE).mean(dim=(2, 4)).flatten(1, 2)
    torch.testing.assert_close(connector(*features), connector.mlp(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_the_deselected_add_exactly_nothing(train: bool) -> None:
    """Other features of an expert that an item is not for: the same bits, and no gradient."""
    connector, features = made().train(train), given()
    before = connector(*features)
    read = [one.layers[-1].requires_grad_(True) for one in features]
    connector(*features).square().sum().backward()
    for expert in (0, 1):
        grad = read[1 + expert].grad
        assert grad is not None
        assert [bool(one.any()) for one in grad] == CHOSEN[:, expert].tolist()
        others = given()
        away = ~CHOSEN[:, expert]
        others[1 + expert].layers[-1][away] = 1e3 * torch.randn_like(others[1 + expert].layers[-1][away])
        assert torch.equal(connector(*others), before)
        others[1 + expert].layers[-1][~away] += 1.0
        changed = (connector(*others) != before).flatten(1).any(1)
        assert changed.tolist() == CHOSEN[:, expert].tolist()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of 12 channels and its tokenizer."""
    place = tmp_path_factory.mktemp("bert")
    t.BertTokenizer(vocab={word: number for number, word in enumerate(BERT)}).save_pretrained(place)
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    t.BertModel(t.BertConfig(vocab_size=len(BERT), **sizes)).save_pretrained(place)
    return str(place)


def asked(n: int) -> dict[str, Tensor]:
    """The same text for both experts, item after item."""
    return {"question": torch.tensor([[2, 9, 30, 3]]).expand(n, -1), "experts": torch.ones(n, 2, dtype=torch.bool)}


@torch.no_grad()
def test_weights_follow_from_the_first_state_of_the_text(bert: str) -> None:
    ids = torch.tensor([[2, 9, 30, 3], [2, 12, 3, -1], [7, -1, -1, -1]])
    connector, features = made(text=bert), given(question=ids)
    own = t.BertModel(connector.text.config, add_pooling_layer=False).eval()  # type: ignore[union-attr]
    own.load_state_dict(connector.text.state_dict())  # type: ignore[union-attr]
    texts = [own(row[row >= 0][None]).last_hidden_state[0, 0] for row in ids]
    expected = reference(connector, features, torch.stack(texts))
    torch.testing.assert_close(connector(*features), expected, atol=1e-4, rtol=1e-4)


def test_the_contract_holds_with_a_text(bert: str) -> None:
    words = {"experts": ("a", "b"), "source_grid": (4, 4), "grid": (2, 2), "depth": 1, "heads": 2}
    check_projector(partial(MovaConnector, **words, text=bert), grids=[(4, 4)] * 3, extras=asked)


def test_it_is_laid_out_without_numbers(bert: str) -> None:
    """As planning makes it: the text encoder is not loaded then."""
    with torch.device("meta"):
        connector = MovaConnector(dim=BASE + sum(EXPERTS), llm_dim=LLM, **WORDS, text=bert)
    assert all(parameter.is_meta for parameter in connector.parameters())


def test_a_folder_of_another_model_is_refused(tmp_path: Path, bert: str) -> None:
    t.BertTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    t.RobertaModel(t.RobertaConfig(vocab_size=9, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(MmllmError, match="is a roberta; give a BERT"):
        made(text=str(tmp_path))


# ---- routing as text


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("experts: where\nwhat is it?", [True, False]),
        ("what is it?\n experts: what, where", [True, True]),
        ("experts: none\nwhat is it?", [False, False]),
        ("experts:", [False, False]),
        ("what experts: where", [True, True]),  # not at the beginning of a line
        ("what is it?", [True, True]),
    ],
)
def test_a_line_of_the_message_chooses(text: str, chosen: list[bool]) -> None:
    assert RoutedQuestion(("where", "what"), None).read(text)["experts"].tolist() == chosen


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("I would ask where, and what.", "experts: where what"),
        ("somewhere", "experts: none"),  # whole words alone
        ("what what d c b where", "experts: what d c"),
        ("", "experts: none"),
    ],
)
def test_a_free_answer_becomes_a_line(answer: str, line: str) -> None:
    names = ("where", "what", "c", "d")
    assert routed(answer, names) == line
    RoutedQuestion(names, None).read(line)


def test_lines_and_names_that_are_refused() -> None:
    with pytest.raises(SampleError, match="names wheel; known: where, what, or none"):
        RoutedQuestion(("where", "what"), None).read("experts: wheel")
    with pytest.raises(SampleError, match="has 2 lines"):
        RoutedQuestion(("where", "what"), None).read("experts: where\nexperts: what")
    for names in (("a", "a"), ("none",), ("a b",)):
        with pytest.raises(MmllmError, match="must be names of letters"):
            RoutedQuestion(names, None)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"experts": ("a",)}, r"experts: \['a'\] are 1 names, and behind the first encoder.* stand 2"),
        ({"experts": (), "dims": (8,)}, "name each of them, at least one"),
        ({"heads": 4}, "heads: 4 must divide the base's width of 8 by a multiple of 4"),
        ({"depth": 0}, "depth: 0 must be at least 1"),
        ({"text": "nowhere/at/all"}, "text: 'nowhere/at/all' cannot be loaded"),
    ],
)
def test_what_it_refuses(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        made(**words)


def test_grids_and_items_it_refuses() -> None:
    with pytest.raises(MmllmError, match=r"positions for a grid of \[4, 4\].*8 x 8"):
        made().out_grid((8, 8), (4, 4), (4, 4))
    with pytest.raises(MmllmError, match="the same frames or tiles"):
        made().out_grid((3, 4, 4), (2, 4, 4), (3, 4, 4))
    bare = [Features(one.layers, one.mask, one.grid) for one in given()]
    with pytest.raises(MmllmError, match="was given the item alone"):
        made()(*bare)


# ---- the recipe


def encoded(model: MultimodalLM, text: str) -> Encoded:
    talk = (Message("user", f"<image>\n{text}"), Message("assistant", "a page"))
    sample = Sample("one", talk, {"image": (Image.radial_gradient("L").resize((60, 90)).convert("RGB"),)})
    prompter = Prompter(model.llm.tokenizer, model.places)
    return encode(sample, prompter, model.inputs, model.llm.context, train=True)


def test_full_size_recipe_with_stand_ins(tmp_path: Path, bert: str) -> None:
    """CLIP at 672 pixels, DINOv2, SigLIP and SAM; whom the message names is who learns."""
    places = [f"llm.path={tiny_llm_folder(tmp_path, 'qwen2', max_position_embeddings=4096, num_hidden_layers=2)}"]
    for key, kind, side in (("base", "clip", 336), ("objects", "dinov2", 518), ("words", "siglip", 384)):
        (tmp_path / key).mkdir()
        places.append(f"encoders.{key}.model={vision_folder(tmp_path / key, kind, side, blocks=2)}")
    sizes = {"hidden_size": 8, "output_channels": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 8}
    sam = t.SamVisionModel(t.SamVisionConfig(**sizes, global_attn_indexes=[]))
    randomise(sam)  # new ones are nearly zero
    sam.save_pretrained(tmp_path / "edges")
    t.SamImageProcessor().save_pretrained(tmp_path / "edges")
    places += [f"encoders.edges.model={tmp_path / 'edges'}", f"connectors.image.text={bert}", "llm.dtype=float32"]
    recipe = load_recipe(folder() / "mova.yaml", [*places, "connectors.image.heads=4", "connectors.image.depth=1"])
    model = build(recipe, "cpu")
    assert model.inputs["image"].n_tokens() == 576
    with pytest.raises(SampleError, match='one: the line "experts:" of the message with the item names wheels'):
        encoded(model, "experts: wheels\nwhat is it?")
    everybody = collate([encoded(model, "what is it?")], model.inputs)
    for stage in recipe.stages.values():
        set_trainable(model, stage.train)
        _, silent = two_steps(model, everybody)
        assert silent == []
    model.train().zero_grad()
    nll, *_ = model(collate([encoded(model, "experts: words\nwhat is it?")], model.inputs))
    nll.backward()
    cross: Any = model.connectors["image"].blocks[0].cross  # type: ignore[union-attr,index]
    assert [bool(one.to_value.weight.grad.any()) for one in cross] == [False, True, False]


def test_conversations_about_a_picture_do_not_share_its_tokens() -> None:
    """Two lines of routing behind the same beginning open other experts."""
    assert not made().shares_prefix

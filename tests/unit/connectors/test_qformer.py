"""The ``qformer`` connector: its contract with a question, a published one's weights as a start, what it refuses."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from PIL import Image

from mmllm.batches.sample import load_media, plan
from mmllm.connectors.projectors.qformer import QFormerConnector
from mmllm.errors import MmllmError, RecipeError
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.model.start import load_start
from mmllm.recipe.models import ComponentSpec, Start
from mmllm.testing import check_projector
from mmllm.testing.tiny.published import published_folder
from mmllm.testing.tiny.published.blip import BERT
from mmllm.types import QUESTION, Features, Message, Sample
from tests.support.assemblies import tiny_encoder
from tests.support.parts import tiny_llm

SMALL = {"queries": 3, "depth": 2, "heads": 2, "width": 8}
PUBLISHED = {"queries": 5, "depth": 3, "heads": 2, "width": 24, "mlp_width": 40}
"""Settings of the tiny BLIP-2."""


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bert")
    t.BertTokenizer(vocab={word: number for number, word in enumerate(BERT)}).save_pretrained(folder)
    return str(folder)


def questions(n: int) -> dict[str, torch.Tensor]:
    """Texts of 4, 3 and 1 ids, item after item."""
    rows = [[2, 9, 30, 3], [2, 12, 3, -1], [7, -1, -1, -1]]
    return {"question": torch.tensor([rows[number % 3] for number in range(n)])}


def test_the_contract_holds_with_a_question(bert: str) -> None:
    """Every weight learns, the last block's among them, whose text nobody reads."""
    check_projector(partial(QFormerConnector, **SMALL, tokenizer=bert), extras=questions, raster=False)


def test_what_stands_behind_a_text_is_not_read(bert: str) -> None:
    torch.manual_seed(0)
    connector = QFormerConnector(dim=6, llm_dim=4, **SMALL, tokenizer=bert).eval()
    x, mask = torch.randn(1, 5, 6), torch.ones(1, 5, dtype=torch.bool)
    with torch.no_grad():
        plain = connector(Features({-1: x}, mask, (1, 5), None, {"question": torch.tensor([[2, 9, 3]])}))
        longer = connector(Features({-1: x}, mask, (1, 5), None, {"question": torch.tensor([[2, 9, 3, -1, -1]])}))
        other = connector(Features({-1: x}, mask, (1, 5), None, {"question": torch.tensor([[2, 8, 3]])}))
    torch.testing.assert_close(plain, longer, atol=1e-6, rtol=1e-6)
    assert (plain - other).abs().max() > 1e-4


def test_a_question_is_tokenised_once(bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its sample is planned; the rank that reads the media, perhaps another one, is told."""
    encoder, llm = tiny_encoder(), tiny_llm("llama")
    connector = QFormerConnector(dim=encoder.dim, llm_dim=llm.dim, **SMALL, tokenizer=bert)
    model = MultimodalLM(llm, {"image": encoder}, {"image": connector}, {"image": "image"})
    reader = model.inputs["image"].questions
    assert reader is not None
    read: list[str] = []
    plain = type(reader).read

    def counted(self: Any, text: str) -> dict[str, torch.Tensor]:
        read.append(text)
        return plain(self, text)

    monkeypatch.setattr(type(reader), "read", counted)
    turns = ("<image> a", "b", "and <image><image> c d", "e")
    messages = tuple(Message(("user", "assistant")[n % 2], text) for n, text in enumerate(turns))
    pictures = tuple(Image.new("RGB", (32, 32), (n, 0, 0)) for n in range(3))
    sample, prompter = Sample("s", messages, {"image": pictures}), Prompter(llm.tokenizer, model.places)
    planned = plan(sample, prompter, model.inputs, 512, train=True)
    there = pickle.loads(pickle.dumps(planned.told(False))).of(sample, prompter)
    for one in (planned, there):
        asked = [item[QUESTION]["question"] for item in load_media(one, model.inputs).media["image"]]
        assert all(torch.equal(found, plain(reader, text)["question"]) for found, text in zip(asked, read, strict=True))
    assert read == ["a", "and  c d", "and  c d"]


def test_dropout_is_drawn_in_training_alone() -> None:
    torch.manual_seed(0)
    connector = QFormerConnector(dim=6, llm_dim=4, **SMALL, dropout=0.5)
    given = Features({-1: torch.randn(1, 5, 6)}, torch.ones(1, 5, dtype=torch.bool), (1, 5))
    with torch.no_grad():
        assert torch.equal(connector.eval()(given), connector(given))
        assert not torch.equal(connector.train()(given), connector(given))


def test_published_weights_are_a_start(tmp_path: Path) -> None:
    """Of BLIP-2 for the same LLM; other numbers of heads, which no tensor shows, are refused."""
    published_folder("Blip2", tmp_path / "vlm")

    def started(**words: Any) -> QFormerConnector:
        args = {**PUBLISHED, **words}
        part = ComponentSpec(type="qformer", source="image", start=Start(path=str(tmp_path / "vlm")), args=args)
        made = QFormerConnector(dim=16, llm_dim=32, **args)
        load_start("image", part, made)
        return made

    theirs = t.Blip2ForConditionalGeneration.from_pretrained(tmp_path / "vlm")
    assert torch.equal(started().queries, theirs.query_tokens[0])
    with pytest.raises(RecipeError, match="has heads: 2, the connector qformer has 3; write heads: 2"):
        started(heads=3)
    with pytest.raises(RecipeError, match=r"qformer.encoder.layer.3.attention.* has no value"):
        started(depth=4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"heads": 3}, r"heads \(3\) must divide the width \(8\)"),
        ({"every": 0}, "qformer every: 0 must be at least 1"),
        ({"activation": "gelo"}, 'activation: "gelo" is unknown'),
        ({"words": 30}, "subfolder and words are of a tokenizer, and none is given"),
        ({"tokenizer": "/nowhere/at/all"}, "qformer tokenizer: '/nowhere/at/all' cannot be loaded"),
    ],
)
def test_what_it_refuses(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        QFormerConnector(dim=6, llm_dim=4, **{**SMALL, **words})


def test_a_table_holds_all_words(bert: str) -> None:
    with pytest.raises(MmllmError, match="words: 3 are fewer than the 58 of its tokenizer"):
        QFormerConnector(dim=6, llm_dim=4, **SMALL, tokenizer=bert, words=3)

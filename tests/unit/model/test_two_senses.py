"""Two senses at once: any mix in one conversation and one packed row, lengths that differ, senses that are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from mmllm.batches.collate import collate
from mmllm.batches.sample import load_media, plan
from mmllm.errors import SampleError
from mmllm.generation.generator import Generator
from mmllm.hooks.passes import context_of
from mmllm.messages.tokenize import Prompter
from mmllm.model import trainable
from mmllm.model.item_text import ItemText
from mmllm.model.model import MultimodalLM
from mmllm.types import IGNORE_INDEX, Message, Sample, Span
from tests.support.forward import embedded, logits
from tests.support.talks import encoded, packed, talk
from tests.support.three_senses import TALKS, three_senses

CONNECTORS = {"connectors.image": 1e-2, "connectors.audio": 1e-2, "connectors.video": 1e-2, "connectors.lora": 1e-2}


@contextmanager
def counted(model: MultimodalLM) -> Iterator[dict[str, int]]:
    """How often each encoder and each connector with features runs meanwhile."""
    calls: dict[str, int] = {}
    hooks = []
    for group in ("encoders", "connectors"):
        for key, module in getattr(model, group).items():
            name = f"{group}.{key}"
            calls[name] = 0

            def count(*_: object, name: str = name) -> None:
                calls[name] += 1

            hooks.append(module.register_forward_hook(count))
    yield calls
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("video", ["pool", "ragged"])
def test_each_place_shows_its_own_item(video: str) -> None:
    """Items of all keys in one conversation: every run of places holds what its item alone would say."""
    model = three_senses(video=video)
    samples = encoded(model, TALKS)
    batch = collate(samples, model.inputs)
    ctx, row = model.embed(batch)
    text = model.llm.embed(batch.input_ids, ctx)
    filled = torch.zeros(batch.n_tokens, dtype=torch.bool)
    readers = model.inputs
    for sample, offset in zip(samples, batch.cu_seqlens.tolist(), strict=False):
        for span in sample.spans:
            alone = readers[span.key].collate([sample.media[span.key][span.item]])
            tokens, counts = model.project(span.key, alone, ctx)
            assert counts == [span.length]
            places = slice(offset + span.start, offset + span.start + span.length)
            torch.testing.assert_close(row[places], tokens)
            filled[places] = True
    n_places = sum(map(len, batch.media_positions.values()))
    assert torch.equal(row[~filled], text[~filled]) and int(filled.sum()) == n_places
    order = [(span.key, span.item) for span in samples[0].spans]
    assert order == [("image", 0), ("audio", 0), ("video", 0), ("video", 1), ("image", 1), ("audio", 1)]


@pytest.mark.parametrize(("family", "video"), [("llama", "pool"), ("gemma2", "ragged"), ("gpt2", "pool")])
def test_packed_together_as_one_by_one(family: str, video: str) -> None:
    """Sounds and clips of different lengths in one row: the loss and every gradient are the sums of each alone."""
    model = three_senses(family, video)
    trainable.set_trainable(model, CONNECTORS)
    together = gradients(model, TALKS)
    alone = [gradients(model, [sample]) for sample in TALKS]
    assert together.keys() == alone[0].keys()
    for name, value in together.items():
        found = torch.stack([one[name] for one in alone]).sum(dim=0)
        torch.testing.assert_close(value, found, rtol=1e-4, atol=1e-5)
        assert value.abs().sum() > 0, name


def gradients(model: MultimodalLM, samples: list[Sample] | tuple[Sample, ...]) -> dict[str, torch.Tensor]:
    """The summed loss and its gradients by name, in training."""
    model.train().zero_grad()
    nll, _, _ = model(packed(model, samples))
    nll.backward()
    learned = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": nll.detach(), **learned}


def test_neighbours_in_a_batch_change_nothing_bit_for_bit() -> None:
    """A longer sound beside it pads an item, and what it says stays the same."""
    model = three_senses(video="ragged")
    readers = model.inputs
    ctx = context_of(packed(model, []), readers)
    for key in ("audio", "video"):
        items = [readers[key].read((seed, length)) for seed, length in ((1, 2), (2, 6), (3, 2))]
        tokens, counts = model.project(key, readers[key].collate(items), ctx)
        for item, some in zip(items, tokens.split(counts), strict=True):
            torch.testing.assert_close(some, model.project(key, readers[key].collate([item]), ctx)[0])
        assert len(set(counts)) == 2


@torch.no_grad()
def test_what_is_missing_is_not_run() -> None:
    """Without gradients only what occurs runs, once; the same logits as in a model that has no other sense."""
    model = three_senses()
    expected = {
        1: set(),
        2: {"audio"},
        3: {"video"},
        4: {"image"},
    }
    for number, keys in expected.items():
        with counted(model) as calls:
            model(packed(model, [TALKS[number]]))
        assert {name for name, n in calls.items() if n} == {
            f"{group}.{key}" for key in keys for group in ("encoders", "connectors")
        }
        assert calls["connectors.audio"] == (2 if keys == {"audio"} else 0)  # once for each length
        assert all(n <= 1 for name, n in calls.items() if name.startswith("encoders"))


def test_in_training_only_what_learns_is_run_on_nothing() -> None:
    """A rank without sounds still runs what learns from them, times zero; frozen senses rest."""
    model = three_senses()
    trainable.set_trainable(model, {"connectors.audio": 1e-2, "connectors.lora": 1e-2})
    model.train()
    with counted(model) as calls:
        nll, _, _ = model(packed(model, [TALKS[1]]))
    assert {name for name, n in calls.items() if n} == {"encoders.audio", "connectors.audio"}
    nll.backward()
    learned = dict(model.connectors["audio"].named_parameters())
    assert all(p.grad is not None and not p.grad.any() for p in learned.values())
    frozen = three_senses()
    torch.testing.assert_close(nll.detach(), frozen(packed(frozen, [TALKS[1]]))[0], rtol=0, atol=0)


@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize("times", [None, "{s:.1f}s "])
def test_answers_are_the_same_in_a_batch_alone_and_without_cache(family: str, times: str | None) -> None:
    """Mixed conversations answered together, one by one, and checked against the packed model without a cache."""
    model = three_senses(family, times=times)
    generator = Generator(model)
    asked = [replace(sample, messages=sample.messages[:-1]) for sample in TALKS]
    samples = [generator.encode(sample) for sample in asked]
    together = generator.generate_encoded(samples, 6)
    assert together == [generator.generate_encoded([one], 6)[0] for one in samples]
    state, tokens = model.prefill(collate(samples, model.inputs)), []
    for _ in range(6):
        tokens.append(state.logits.argmax(dim=-1))
        state = model.decode(state, tokens[-1])
    said = torch.stack(tokens, dim=1).tolist()
    longer = [
        replace(one, ids=[*one.ids, *new], labels=[IGNORE_INDEX] * (len(one.ids) + len(new)))
        for one, new in zip(samples, said, strict=True)
    ]
    batch = collate(longer, model.inputs)
    with torch.no_grad():
        best = logits(model, batch).argmax(dim=-1)
    for end, new in zip(batch.cu_seqlens[1:].tolist(), said, strict=True):
        assert best[end - 7 : end - 1].tolist() == new


# ---- times in the text


def test_times_stand_before_the_steps_of_a_clip() -> None:
    """Token ids are those of the plain text, without label; places keep their order; what is planned comes out."""
    model, without = three_senses(times="at {s:.1f}s, {n}: "), three_senses()
    prompter = Prompter(model.llm.tokenizer, list(model.inputs))
    readers = model.inputs
    for sample, plain in zip(TALKS, encoded(without, TALKS), strict=True):
        planned = plan(sample, prompter, readers, 256, train=True)
        done = load_media(planned, readers)
        assert planned.length == len(done.ids) == len(done.labels)
        assert done.n_labels == plain.n_labels == sum(label != IGNORE_INDEX for label in done.labels)
        kept = list(range(len(done.ids)))
        for span in done.spans:
            item = sample.media[span.key][span.item]
            if span.key != "video":
                continue
            seconds, length = [0.5 * step for step in range(item[1])], item[1]
            number = sum(s.key == "video" and s.item == span.item and s.start < span.start for s in done.spans)
            mark = prompter.separator(Span(f"at {seconds[number]:.1f}s, {number + 1}: ", (1,)))
            at = list(range(span.start - len(mark), span.start))
            assert [done.ids[i] for i in at] == mark and span.length == 2
            assert all(done.labels[i] == IGNORE_INDEX for i in at) and number < length
            kept = [i for i in kept if i not in at]
        assert [done.ids[i] for i in kept] == plain.ids and [done.labels[i] for i in kept] == plain.labels
    assert sum(span.key == "video" for span in encoded(model, TALKS)[0].spans) == 6


def test_marks_are_text_as_typed_and_nothing_in_them_is_special() -> None:
    """A mark is what the tokenizer makes of it behind other text; a special token or placeholder in it is plain."""
    model = three_senses()
    tokenizer = model.llm.tokenizer
    prompter = Prompter(tokenizer, list(model.inputs))
    for text in ("0.5s ", "<12> ", " at 3s:", "\n"):
        assert prompter.separator(Span(text, (1,))) == tokenizer.encode(text, add_special_tokens=False)
    for text in ("<|im_end|>", "<image> 3s "):
        ids = prompter.separator(Span(text, (1,)))
        assert tokenizer.decode(ids) == text and len(ids) > 1
        assert not set(ids) & {tokenizer.eos_token_id} and max(ids) < len(tokenizer)
    assert prompter.separator(Span("", (1,))) == []


def test_times_change_no_place_of_the_media() -> None:
    """With marks between them the tokens of a clip are the same, in the same order; packing keeps the law."""
    model, without = three_senses(times="{s:.1f}s "), three_senses()
    marked, plain = packed(model, TALKS), packed(without, TALKS)
    rows = [embedded(model, marked), embedded(without, plain)]
    for key in plain.media_positions:
        torch.testing.assert_close(rows[0][marked.media_positions[key]], rows[1][plain.media_positions[key]])
        assert (
            marked.media_ids[marked.media_positions[key]].tolist()
            == plain.media_ids[plain.media_positions[key]].tolist()
        )
        assert marked.item_sequence[key].tolist() == plain.item_sequence[key].tolist()
    video = marked.media_positions["video"]
    starts = [int(video[marked.media_ids[video] == item][0]) for item in range(len(marked.item_sequence["video"]))]
    assert marked.item_starts["video"].tolist() == starts
    losses = [float(model(packed(model, [sample]))[0]) for sample in TALKS]
    assert float(model(marked)[0]) == pytest.approx(sum(losses), rel=1e-5)
    assert float(model(marked)[0]) != pytest.approx(float(without(plain)[0]), rel=1e-3)


def test_times_without_a_clock_are_refused() -> None:
    """An encoder of pictures knows no times."""
    model = three_senses()
    model.inputs["image"].text = ItemText(times="{s}")
    with pytest.raises(SampleError, match="picture: image 1: its connector has `times`, but its encoder knows no"):
        encoded(model, [TALKS[4]])


def test_too_long_counts_the_marks() -> None:
    """What the context holds is decided with the times in it."""
    model = three_senses(times="{s:.1f}s ")
    prompter = Prompter(model.llm.tokenizer, list(model.inputs))
    sample = talk("long", "<video>", "Yes.", video=((1, 5),))
    length = plan(sample, prompter, model.inputs, 256, train=True).length
    assert plan(sample, prompter, model.inputs, length, train=True).length == length
    with pytest.raises(SampleError, match=f"long: {length} tokens"):
        plan(sample, prompter, model.inputs, length - 1, train=True)


def test_media_of_a_sense_the_recipe_has_not() -> None:
    """One sentence names the sample, the key and what there is."""
    model = three_senses()
    sample = Sample("odd", (Message("user", "<graph>?"),), {"graph": (1,)})
    with pytest.raises(
        SampleError, match="odd: holds graph media, and no connector fills <graph>; known: <image>, <audio>, <video>"
    ):
        Generator(model).encode(sample)

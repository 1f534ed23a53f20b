"""Methods of the peft library inside the LLM: equal to peft's own models, owned by the connector, never silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PolyConfig, XLoraConfig, get_peft_model
from peft.tuners.lora.arrow import create_arrow_model
from peft.tuners.lora.config import ArrowConfig
from torch import nn

from mmllm.connectors.base import Connector
from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.connectors.llm_adapters.peft.export import export
from mmllm.connectors.llm_adapters.peft.peft import PeftConnector
from mmllm.errors import MmllmError
from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from tests.support.assemblies import Row, batch_of, shortened, tiny_assembly
from tests.support.forward import embedded, hidden, logits, per_row
from tests.support.parts import randomise, tiny_llm, tiny_model

ROWS = (Row(1, (8,), source="captions"), Row(2, (12,), source="text"), Row(3, (5,), source="captions"))
TASKS = ["captions", "text"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),  # peft asks transformers for it
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
]


def tuned(family: str = "llama", **words: Any) -> MultimodalLM:
    """A tiny LLM with one peft connector under the key ``tuner``."""
    llm = tiny_llm(family)
    return MultimodalLM(llm, {}, {"tuner": PeftConnector(llm_dim=llm.dim, **words)}, {}).eval()


def hand_over(assembly: MultimodalLM, theirs: nn.Module) -> None:
    """Copy the connector's weights into peft's model; both must have the same trainable ones."""
    names = set()
    for name, tensor in assembly.connectors["tuner"].named_parameters():
        layer, _, rest = name.removeprefix("layers.").partition(".tuner.")
        names.add(f"base_model.model.{layer.replace('-', '.')}.{rest}")
        theirs.get_parameter(f"base_model.model.{layer.replace('-', '.')}.{rest}").data.copy_(tensor)
    assert names == {name for name, p in theirs.named_parameters() if p.requires_grad}


@torch.no_grad()
def compare(assembly: MultimodalLM, theirs: nn.Module, tasks: bool = False) -> None:
    """The packed pass gives what peft's model gives of each conversation, and not what the bare LLM gives."""
    batch = batch_of(assembly, ROWS)
    ours = logits(assembly, batch)
    for number, row in enumerate(ROWS):
        at = slice(int(batch.cu_seqlens[number]), int(batch.cu_seqlens[number + 1]))
        ids = batch.input_ids[None, at]
        words = {"task_ids": torch.tensor([TASKS.index(row.source)])} if tasks else {}
        expected = theirs(input_ids=ids, attention_mask=torch.ones_like(ids), **words).logits[0]
        torch.testing.assert_close(ours[at], expected, atol=1e-5, rtol=1e-5)
    handle = assembly.handles["tuner"]
    assert handle is not None
    handle.remove()
    assert not torch.allclose(logits(assembly, batch), ours, atol=1e-2)


def layers_of(assembly: MultimodalLM) -> list[str]:
    return sorted({name.rsplit(".", 1)[1] for name in assembly.llm.linears()})


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_lora_and_dora_equal_pefts(family: str, method: str) -> None:
    assembly = tuned(family, method=method, rank=3, alpha=5.0)
    randomise(assembly.connectors["tuner"])
    config = LoraConfig(
        r=3, lora_alpha=5.0, use_dora=method == "dora", target_modules=layers_of(assembly), task_type="CAUSAL_LM",
        fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    theirs = get_peft_model(tiny_model(family), config).eval()
    hand_over(assembly, theirs)
    compare(assembly, theirs)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "qwen2"])
def test_ia3_equals_pefts_on_its_own_choice_of_layers(family: str) -> None:
    """Output factors and, on the feed-forward layer, input factors; nothing is named in the recipe."""
    assembly = tuned(family, method="ia3")
    randomise(assembly.connectors["tuner"])
    theirs = get_peft_model(tiny_model(family), IA3Config(task_type="CAUSAL_LM", fan_in_fan_out=family == "gpt2"))
    hand_over(assembly, theirs.eval())
    compare(assembly, theirs)


@pytest.mark.parametrize("family", ["llama", "qwen2"])  # peft's Poly has no forward for OPT's flat MLP; ours has
@pytest.mark.parametrize("splits", [1, 4])
def test_poly_and_mhr_equal_pefts_with_tasks_mixed_in_one_row(family: str, splits: int) -> None:
    words = {"method": "mhr", "splits": splits} if splits > 1 else {"method": "poly"}
    assembly = tuned(family, rank=3, skills=3, tasks=TASKS, **words)
    randomise(assembly.connectors["tuner"])
    config = PolyConfig(
        r=3, n_tasks=2, n_skills=3, n_splits=splits, target_modules=layers_of(assembly), task_type="CAUSAL_LM"
    )
    theirs = get_peft_model(tiny_model(family), config).eval()
    hand_over(assembly, theirs)
    compare(assembly, theirs, tasks=True)


def test_poly_draws_for_each_conversation_while_it_trains() -> None:
    """peft's router is noisy in training, so two passes differ; recomputed blocks draw the same again."""
    found = []
    for recompute in (False, True):
        assembly = tuned(method="poly", rank=2, tasks=TASKS)
        randomise(assembly.connectors["tuner"])
        trainable.set_trainable(assembly, {"connectors.tuner": 1e-2})
        assembly.train().llm.gradient_checkpointing(recompute)
        batch = batch_of(assembly, ROWS)
        torch.manual_seed(4)
        assembly(batch)[0].backward()
        found.append([p.grad for p in assembly.connectors["tuner"].parameters()])
        assert assembly(batch)[0] != assembly(batch)[0]
    for plain, again in zip(*found, strict=True):
        assert plain is not None and plain.abs().sum() > 0
        torch.testing.assert_close(again, plain, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_conversations_without_a_task_are_an_error_or_the_default() -> None:
    strangers = (Row(1, (8,), source=""), Row(2, (4,), source="text"))
    assembly = tuned(method="poly", tasks=TASKS, default_task="text")
    randomise(assembly.connectors["tuner"])
    named = batch_of(assembly, (Row(1, (8,), source="text"), strangers[1]))
    assert torch.equal(logits(assembly, batch_of(assembly, strangers)), logits(assembly, named))
    with pytest.raises(MmllmError, match="a conversation of no data key has no task; tasks are captions, text"):
        logits(tuned(method="poly", tasks=TASKS), batch_of(assembly, strangers))
    with pytest.raises(MmllmError, match=r"data\.other has no task.*add it to tasks"):
        logits(assembly, batch_of(assembly, (Row(1, (3,), source="other"),)))


LAYERS = {"gpt2": ["c_attn", "mlp.c_proj"], "opt": ["q_proj", "fc2"]}
"""Targets of the random LoRAs in families that have no q_proj and down_proj."""


def adapters(folder: Path, family: str = "llama", **words: Any) -> list[str]:
    """Three random LoRAs of peft in its own format."""
    made = []
    for number in range(3):
        targets = LAYERS.get(family, ["q_proj", "down_proj"])
        config = LoraConfig(r=2, lora_alpha=3 + number, target_modules=targets, **words)
        model = get_peft_model(tiny_model(family), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(number))
        model.save_pretrained(str(folder / str(number)))
        made.append(str(folder / str(number)))
    return made


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_arrow_equals_pefts(tmp_path: Path) -> None:
    """Directions and routing are peft's; nothing of it is a parameter, and a checkpoint carries the experts."""
    folders = adapters(tmp_path, task_type="CAUSAL_LM")
    assembly = tuned(method="arrow", adapters=folders, top_k=2, temperature=0.5)
    assert not list(assembly.connectors["tuner"].parameters())
    state = {name: tensor.clone() for name, tensor in trainable.trainable_state(assembly).items()}
    assert len(state) == 3 * 2 * 2 * 4
    trainable.load_trainable(assembly, state)
    config = ArrowConfig(top_k=2, router_temperature=0.5, rng_seed=0)
    compare(assembly, create_arrow_model(tiny_model(), folders, config).eval())


@pytest.mark.parametrize(
    ("words", "theirs"),
    [
        ({}, {}),
        ({"top_k": 2, "temperature": 0.5}, {"top_k_lora": 2, "softmax_temperature": 0.5}),
        ({"layerwise": True, "depth": 2, "width": 6}, {"layerwise_scalings": True, "xlora_depth": 2, "xlora_size": 6}),
    ],
)
def test_xlora_equals_pefts(tmp_path: Path, words: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Of the packed row, each pass preceded by one without adapters; only the classifier learns."""
    folders = adapters(tmp_path, task_type="CAUSAL_LM")
    assembly = tuned(method="xlora", adapters=folders, **words)
    randomise(assembly.connectors["tuner"])
    named = {str(number): folder for number, folder in enumerate(folders)}
    config = XLoraConfig(task_type="CAUSAL_LM", hidden_size=32, adapters=named, **theirs)
    model = get_peft_model(tiny_model(use_cache=False), config).eval()
    prefix = "base_model.internal_xlora_classifier."
    for name, tensor in assembly.connectors["tuner"].named_parameters():
        model.get_parameter(prefix + name.removeprefix("router.classifier.")).data.copy_(tensor)
    compare(assembly, model)


METHODS = ["ia3", "poly", "mhr", "arrow", "xlora"]
"""Those that the contract of all connectors, with ``tiny()``, does not walk."""


def of(method: str, folder: Path, family: str = "llama") -> MultimodalLM:
    words: dict[str, Any] = {"tasks": TASKS, "rank": 2} if method in ("poly", "mhr") else {}
    if method in ("arrow", "xlora"):
        words = {"adapters": adapters(folder, family, task_type="CAUSAL_LM"), "top_k": 2}
    assembly = tuned(family, method=method, **words)
    randomise(assembly.connectors["tuner"])
    return assembly


FAMILIES = {"llama": METHODS, "gemma2": METHODS, "opt": METHODS, "gpt2": ["ia3", "arrow", "xlora"]}
"""peft's Poly has no layer for GPT-2's Conv1D."""


@pytest.mark.parametrize(("family", "method"), [(f, method) for f, methods in FAMILIES.items() for method in methods])
@torch.no_grad()
def test_cached_equals_uncached(method: str, family: str, tmp_path: Path) -> None:
    """Two decodings take turns, and rows finish: X-LoRA's second cache follows, Poly's tasks too."""
    assembly = of(method, tmp_path, family)
    batch = batch_of(assembly, ROWS)
    rows, ids = per_row(assembly, batch), batch.input_ids.split(batch.cu_seqlens.diff().tolist())
    first, second = assembly.prefill(shortened(batch, 2)), assembly.prefill(shortened(batch, 2))
    first = assembly.decode(first, torch.tensor([int(row[-2]) for row in ids]))
    torch.testing.assert_close(first.logits, torch.stack([row[-2] for row in rows]), atol=2e-5, rtol=1e-4)
    second = assembly.select(second, torch.tensor([0, 1]))
    first = assembly.select(first, torch.tensor([1, 2]))
    for token in (-2, -1):
        second = assembly.decode(second, torch.tensor([int(row[token]) for row in ids[:2]]))
        torch.testing.assert_close(second.logits, torch.stack([row[token] for row in rows[:2]]), atol=2e-5, rtol=1e-4)
    first = assembly.decode(first, torch.tensor([int(row[-1]) for row in ids[1:]]))
    torch.testing.assert_close(first.logits, torch.stack([row[-1] for row in rows[1:]]), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_when_leaves_the_other_conversations_alone(method: str, tmp_path: Path) -> None:
    """Bit for bit; those with a picture change."""
    assembly = tiny_assembly(lora=False)
    tuner = of(method, tmp_path).connectors["tuner"]
    assert isinstance(tuner, PeftConnector)
    tuner.when = ("image",)
    rows = (
        Row(1, (4, "image", 3), source="captions"),
        Row(2, (9,), source="text"),
        Row(3, ("image", 2), source="text"),
    )
    batch = batch_of(assembly, rows)
    bare = per_row(assembly, batch)
    assembly.connectors["tuner"] = tuner
    tuner.attach(assembly.llm)
    for number, (changed, before) in enumerate(zip(per_row(assembly, batch), bare, strict=True)):
        assert torch.equal(changed, before) == (number == 1)


def test_a_rank_without_a_sample_needs_no_task() -> None:
    """Every rank takes part in a step, also without a conversation; elsewhere one token without task is an error."""
    assembly = tuned(method="poly", tasks=TASKS)
    trainable.set_trainable(assembly, {"connectors.tuner": 1e-2})
    assembly.train()(batch_of(assembly, ()))[0].backward()
    assert all(p.grad is not None and not p.grad.any() for p in assembly.connectors["tuner"].parameters())
    with pytest.raises(MmllmError, match="no data key has no task"):
        assembly.eval()(batch_of(assembly, ()))


def test_arrow_trains_what_is_before_it_also_after_a_decoding(tmp_path: Path) -> None:
    assembly = of("arrow", tmp_path)
    batch = batch_of(assembly, ROWS)
    assembly.prefill(batch)
    embeds = embedded(assembly, batch).requires_grad_()
    hidden(assembly, batch, embeds).square().sum().backward()
    assert embeds.grad is not None and embeds.grad.abs().sum() > 0


@pytest.mark.parametrize("method", ["ia3", "xlora"])
def test_gradients_are_the_same_when_blocks_are_recomputed(method: str, tmp_path: Path) -> None:
    found = []
    for recompute in (False, True):
        assembly = of(method, tmp_path)
        trainable.set_trainable(assembly, {"connectors.tuner": 1e-2})
        assembly.train().llm.gradient_checkpointing(recompute)
        assembly(batch_of(assembly, ROWS))[0].backward()
        assert all(p.grad is None for p in assembly.llm.parameters())
        found.append([p.grad for p in assembly.connectors["tuner"].parameters()])
    for plain, again in zip(*found, strict=True):
        assert plain is not None and plain.abs().sum() > 0
        torch.testing.assert_close(again, plain, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_attached_again_and_removed(method: str, tmp_path: Path) -> None:
    """The weights stay, the LLM's own tree never knew, and removed it is what it was, bit for bit."""
    assembly, bare = of(method, tmp_path), MultimodalLM(tiny_llm(), {}, {}, {})
    batch = batch_of(assembly, ROWS)
    trained = logits(assembly, batch)
    assert list(assembly.llm.state_dict()) == list(bare.llm.state_dict())
    assembly.handles["tuner"].remove()  # type: ignore[union-attr]
    assert torch.equal(logits(assembly, batch), logits(bare, batch))
    again = assembly.connectors["tuner"].attach(assembly.llm)  # type: ignore[operator]
    assert torch.equal(logits(assembly, batch), trained)
    again.remove()
    assert torch.equal(logits(assembly, batch), logits(bare, batch))


def test_arrow_says_what_is_wrong_with_its_adapters(tmp_path: Path) -> None:
    folders = adapters(tmp_path / "llama", task_type="CAUSAL_LM")
    with pytest.raises(MmllmError, match=r"has no adapter_config\.json"):
        tuned(method="arrow", adapters=[str(tmp_path)], top_k=1)
    with pytest.raises(MmllmError, match="top_k 4 is more than the 3 adapters"):
        tuned(method="arrow", adapters=folders, top_k=4)
    with pytest.raises(MmllmError, match="a layer this LLM has not"):
        tuned("gpt2", method="arrow", adapters=folders)
    with pytest.raises(MmllmError, match="no plain LoRA"):
        tuned(method="arrow", adapters=adapters(tmp_path / "dora", use_dora=True), top_k=1)


@pytest.mark.parametrize("made", [LoraConnector, PeftConnector])
@torch.no_grad()
def test_exported_lora_is_read_by_peft_and_by_arrow(made: type[Connector], tmp_path: Path) -> None:
    llm, words = tiny_llm(), {"rank": 3, "alpha": 5.0, "targets": ["q_proj", "down_proj"], "rslora": True}
    if made is PeftConnector:
        words["method"] = "lora"
    assembly = MultimodalLM(llm, {}, {"tuner": made(llm_dim=llm.dim, **words)}, {}).eval()  # type: ignore[arg-type]
    randomise(assembly.connectors["tuner"])
    export(assembly.connectors["tuner"], tmp_path / "lora")  # type: ignore[arg-type]
    alone = logits(tuned(method="arrow", adapters=[str(tmp_path / "lora")], top_k=1), batch_of(assembly, ROWS))
    torch.testing.assert_close(alone, logits(assembly, batch_of(assembly, ROWS)), atol=1e-5, rtol=1e-5)
    compare(assembly, PeftModel.from_pretrained(tiny_model(), str(tmp_path / "lora")).eval())
    with pytest.raises(MmllmError, match="only lora, and peft with method lora"):
        export(tuned(method="ia3").connectors["tuner"], tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "poly"])
@torch.no_grad()
def test_each_method_starts_neutral_and_rests_while_frozen(method: str) -> None:
    """Also in bfloat16: untrained layers change no bit, and are skipped until a stage trains them."""
    words = {"tasks": TASKS} if method == "poly" else {}
    for dtype in (torch.float32, torch.bfloat16):
        llm = tiny_llm()
        llm.model.to(dtype)
        assembly = MultimodalLM(llm, {}, {"tuner": PeftConnector(llm_dim=32, method=method, **words)}, {}).eval()  # type: ignore[arg-type]
        connector, batch, calls = assembly.connectors["tuner"], batch_of(assembly, ROWS), []
        assert all(parameter.dtype == torch.float32 for parameter in connector.parameters())
        for layer in connector.layers.values():  # type: ignore[union-attr]
            layer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        start = logits(assembly, batch)
        assert calls
        calls.clear()
        trainable.set_trainable(assembly, {})
        assert torch.equal(logits(assembly, batch), start) and not calls
        assembly.handles["tuner"].remove()  # type: ignore[union-attr]
        assert torch.equal(logits(assembly, batch), start)
        randomise(connector)
        connector.skip_if_zero()  # type: ignore[operator]
        assert not any(layer.idle for layer in connector.layers.values())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"method": "adalora"}, "method 'adalora' is unknown; known: lora, dora"),
        ({"method": "ia3", "rank": 4}, "method ia3 takes no rank; it takes targets, feedforward"),
        ({"method": "lora", "rank": 0}, "rank 0 must be above 0"),
        ({"method": "lora", "dropout": 1.0}, r"dropout 1.0 must be in \[0, 1\)"),
        ({"method": "poly"}, "method poly needs tasks"),
        ({"method": "poly", "tasks": TASKS, "default_task": "other"}, "default_task 'other' is none of tasks"),
        ({"method": "mhr", "tasks": TASKS, "splits": 5}, "splits 5 must divide the widths"),
        ({"method": "ia3", "targets": ["q_proj"], "feedforward": "down_proj"}, "must be among targets"),
        ({"method": "arrow"}, "method arrow needs adapters"),
    ],
)
def test_bad_values(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        tuned(**words)


@torch.no_grad()
def test_what_a_family_can_and_cannot_do() -> None:
    opt = tuned("opt", method="poly", tasks=TASKS)
    randomise(opt.connectors["tuner"])
    batch = batch_of(opt, ROWS)
    alone = [logits(opt, batch_of(opt, (row,))) for row in ROWS]
    torch.testing.assert_close(logits(opt, batch), torch.cat(alone), atol=1e-5, rtol=1e-5)
    with pytest.raises(MmllmError, match="names no ia3 layers for phi3; give targets"):
        tuned("phi3", method="ia3")
    with pytest.raises(MmllmError, match=r"on nn.Linear only; transformer.h.0.attn.c_attn is a Conv1D"):
        tuned("gpt2", method="poly", tasks=TASKS)

"""Trained LoRAs in peft's folder format, read and written, and Arrow's routing among them; used by ``peft``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.tuners.lora.config import ArrowConfig
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.utils.save_and_load import load_peft_weights
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mmllm.connectors.llm_adapters.peft.layers import Tuner
from mmllm.errors import MmllmError
from mmllm.hooks.points import LLMHookPoints

PREFIX = "base_model.model."
"""Prefix that peft writes before a layer's name in the LLM."""
ROUTER = "arrow_router"
"""peft's name of the adapter that routes among the others."""


@dataclass(frozen=True)
class Expert:
    """One trained LoRA: the config it was trained with and its weights by layer, A float[r, in], B float[out, r]."""

    config: LoraConfig
    weights: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def words(self) -> dict[str, Any]:
        """Arguments of LoraConfig that decide its scaling."""
        return {"r": self.config.r, "lora_alpha": self.config.lora_alpha, "use_rslora": self.config.use_rslora}


@dataclass(frozen=True)
class Experts:
    """Several LoRAs of equal rank and targets."""

    experts: Sequence[Expert]
    linears: Mapping[str, nn.Module]
    """Name in the LLM -> frozen layer, of every layer they work on."""


class TunerExperts(Tuner):
    """peft's LoRA layer with E trained LoRAs. None of their weights learns: they are buffers, whole on every rank."""

    def __init__(self, base: nn.Module, experts: Sequence[Expert], name: str) -> None:
        """``name`` of the frozen layer, by which each expert keeps its weights."""
        turned = isinstance(base, Conv1D)
        self.names = [f"task_{number}" for number in range(len(experts))]
        configs = [LoraConfig(**expert.words, fan_in_fan_out=turned) for expert in experts]
        tuner: Any = LoraLinear(
            base, self.names[0], config=configs[0], r=configs[0].r, lora_alpha=configs[0].lora_alpha
        )
        for own, config in zip(self.names[1:], configs[1:], strict=True):
            tuner.update_layer(own, config.r, lora_alpha=config.lora_alpha, config=config)
        super().__init__(tuner, base)
        for own, expert in zip(self.names, experts, strict=True):
            for linear, weight in zip((tuner.lora_A, tuner.lora_B), expert.weights[name], strict=True):
                _freeze(linear[own], weight.float(), persistent=True)

    def skip_if_zero(self) -> None:
        """Skip nothing: trained LoRAs change something."""
        return None


class TunerArrow(TunerExperts):
    """Arrow (Ostapenko et al. 2024, arXiv:2405.11157), by peft: per token, a softmax over the best of E LoRAs.

    ``y + sum_e c_e scaling_e B_e A_e x``, ``c = softmax(top_k |x . v_e| / temperature)``, ``v_e`` the first right
    singular vector of ``B_e A_e``. Nothing in it learns.
    """

    def __init__(self, base: nn.Module, experts: Sequence[Expert], name: str, top_k: int, temperature: float) -> None:
        """Set up as :class:`TunerExperts`, with ``top_k`` experts per token."""
        super().__init__(base, experts, name)
        arrow = ArrowConfig(top_k=top_k, router_temperature=temperature, rng_seed=0)
        arrow.task_adapter_names, arrow.gks_adapter_names = list(self.names), []
        config = LoraConfig(r=1, arrow_config=arrow, fan_in_fan_out=isinstance(base, Conv1D))
        self.tuner.update_layer(ROUTER, 1, lora_alpha=1, config=config)
        self.tuner.set_adapter(ROUTER)
        for linear in (self.tuner.lora_A[ROUTER], self.tuner.lora_B[ROUTER]):  # peft makes them, and never uses them
            # not persistent, so that no checkpoint holds them
            _freeze(linear, linear.weight.detach().float(), persistent=False)
        self.skip_if_zero()

    def skip_if_zero(self) -> None:
        """Find the experts' directions anew: others may have been loaded."""
        # here and not in some decoding, whose tensors could not be trained through; private names of peft (0.21)
        arrow = self.tuner.lora_arrow[ROUTER]
        arrow._protos_ready = False
        arrow.build_prototypes(self.tuner.lora_A, self.tuner.lora_B)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """Change the output as every :class:`Tuner`."""
        return super().forward(x.contiguous(), output)  # peft's Arrow views its input flat


def read_adapters(folders: Sequence[str], llm: LLMHookPoints) -> Experts:
    """Read LoRAs that peft saved, for the layers of ``llm``.

    Raises:
        MmllmError: a folder that is none, another kind of adapter, or ranks and layers that differ.
    """
    experts = [_read(folder) for folder in folders]
    known = llm.linears()
    for folder, expert in zip(folders, experts, strict=True):
        lost = sorted(expert.weights.keys() - known.keys())
        if lost:
            raise MmllmError(f"peft: adapter {folder} has weights for {lost[0]}, a layer this LLM has not.")
        for what, own, other in (
            ("rank", expert.config.r, experts[0].config.r),
            ("number of layers", len(expert.weights), len(experts[0].weights)),
            ("layers", sorted(expert.weights), sorted(experts[0].weights)),
        ):
            if own != other:
                raise MmllmError(
                    f"peft: adapters {folders[0]} and {folder} differ in {what}; arrow and xlora need equal ones."
                )
    return Experts(experts, {name: base for name, base in known.items() if name in experts[0].weights})


def write_adapter(folder: Path, layers: Mapping[str, tuple[Tensor, Tensor]], words: Mapping[str, Any]) -> None:
    """Write a LoRA as peft does: its config and its weights.

    ``layers``: name in the LLM -> A float[r, in], B float[out, r]; ``words``: arguments of peft's LoraConfig.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, pair in layers.items():
        for which, weight in zip(("lora_A", "lora_B"), pair, strict=True):
            tensors[f"{PREFIX}{name}.{which}.weight"] = weight.detach().float().cpu().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = LoraConfig(**words, target_modules=sorted(layers), task_type="CAUSAL_LM", inference_mode=True)
    config.save_pretrained(str(folder))


def _read(folder: str) -> Expert:
    """One folder, from this machine only."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(folder) / name).is_file():
            raise MmllmError(f"peft: adapters: {folder} has no {name}; give folders that peft's save_pretrained wrote.")
    config = LoraConfig.from_pretrained(folder)
    if config.peft_type != "LORA" or config.use_dora or config.rank_pattern or config.alpha_pattern:
        raise MmllmError(
            f"peft: adapter {folder} is no plain LoRA (DoRA, another method, or ranks that vary by layer)."
        )
    weights: dict[str, dict[str, Tensor]] = {}
    for full, tensor in load_peft_weights(folder, device="cpu").items():
        name, _, which = full.removeprefix(PREFIX).rpartition(".lora_")
        if which not in ("A.weight", "B.weight"):
            raise MmllmError(f"peft: adapter {folder} holds {full}; only weights of linear layers can be routed among.")
        weights.setdefault(name, {})[which[0]] = tensor
    return Expert(config, {name: (pair["A"], pair["B"]) for name, pair in weights.items()})


def _freeze(linear: nn.Linear, weight: Tensor, persistent: bool) -> None:
    """Let a layer's weight be a buffer: it takes no part in training and is whole on every rank."""
    if linear.weight.shape != weight.shape:
        raise MmllmError(
            f"peft: an adapter's weight is {tuple(weight.shape)}, the LLM's layer needs {tuple(linear.weight.shape)}."
        )
    del linear.weight
    linear.register_buffer("weight", weight.clone(), persistent=persistent)

"""DeepSpeed's engine around a model: optimizer groups, one optimizer step, and its state as plain tensors.

``run`` drives it; ``deepspeed_config`` says how the recipe's words reach DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from mmllm.errors import CheckpointError, RecipeError


def optimizer_groups(parts: Mapping[str, tuple[float, Iterable[nn.Parameter]]], decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: ``parts`` maps a name under ``train:`` to its peak learning rate and its parameters.

    Norms and biases (tensors of one axis) get no weight decay.
    """
    groups: list[dict[str, Any]] = []
    for name, (peak, parameters) in parts.items():
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        wide = [parameter for parameter in learning if parameter.ndim > 1]
        narrow = [parameter for parameter in learning if parameter.ndim <= 1]
        for chosen, value in ((wide, decay), (narrow, 0.0)):
            if chosen:
                # `peak` and `part` are ours: AdamW keeps words of a group that it does not know
                groups.append({"params": chosen, "lr": peak, "peak": peak, "part": name, "weight_decay": value})
    return groups


class Engine:
    """One stage's DeepSpeed engine; steps are counted from 0 in this stage."""

    def __init__(
        self, model: nn.Module, groups: list[dict[str, Any]], betas: tuple[float, float], config: dict[str, Any]
    ) -> None:
        """Wraps ``model`` (its trainable parameters are ``groups``); RecipeError if DeepSpeed refuses ``config``."""
        import deepspeed
        from pydantic import ValidationError

        optimizer = torch.optim.AdamW(groups, betas=betas, fused=True)
        try:
            self.deepspeed = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
        # its own checks raise whatever is at hand; a monitor's folder is opened here as well
        except (deepspeed.DeepSpeedConfigError, ValidationError, ValueError, OSError, AssertionError) as error:
            raise RecipeError(f"DeepSpeed refuses its configuration: {' '.join(str(error).split())}") from error
        self.optimizer = optimizer
        self.model = model
        self.zero = int(self.deepspeed.zero_optimization_stage())
        self.n_micro = int(self.deepspeed.gradient_accumulation_steps())
        self.device = self.deepspeed.device

    def set_rates(self, share: float) -> dict[str, float]:
        """Sets every group to ``share`` of its peak; part -> learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["peak"]
        return {group["part"]: group["lr"] for group in self.optimizer.param_groups}

    def __call__(self, *inputs: Any) -> Any:
        """The model's forward."""
        return self.deepspeed(*inputs)

    def backward_and_step(self, loss: Tensor, last: bool = True) -> float | None:
        """Backward of one micro-batch; after the ``last`` of a step updates the weights and returns the gradient norm.

        DeepSpeed averages over the ranks and adds up micro-batches; the norm is the one before clipping.
        """
        # told, not counted: a token budget makes another number of micro-batches in each step
        self.deepspeed.set_gradient_accumulation_boundary(last)
        self.deepspeed.backward(loss, scale_wrt_gas=False)
        # now: DeepSpeed's step clips the gradients and then clears them
        norm = self._plain_norm() if last and self._plain() else None
        self.deepspeed.step()
        if not last:
            return None
        return float(self.deepspeed.get_global_grad_norm()) if norm is None else norm

    def _plain(self) -> bool:
        """Whether DeepSpeed runs our optimizer directly (ZeRO 0 in float32) and so keeps no norm itself."""
        return self.deepspeed.optimizer is self.optimizer

    def _plain_norm(self) -> float:
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def set_step(self, step: int) -> None:
        """Tells DeepSpeed's counters (monitor axis, accumulation) that ``step`` optimizer steps are done."""
        # Private counters of DeepSpeed 0.19, which restores them only from checkpoints of its own format: without the
        # first, monitors start at 0 again.
        self.deepspeed.global_steps = step
        self.deepspeed.micro_steps = step * self.n_micro
        self.deepspeed.global_samples = step * self.deepspeed.train_batch_size()

    def gathered(self, names: Iterable[str]) -> Any:
        """Context in which these parameters are whole on every rank (they are split over the ranks with ZeRO 3)."""
        import deepspeed

        wanted = set(names)
        chosen = [p for name, p in self.model.named_parameters() if name in wanted]
        return deepspeed.zero.GatheredParameters(chosen, enabled=self.zero == 3)

    def _fp32_params(self) -> list[Tensor]:
        """Tensors that the optimizer updates on this rank: parameters, or DeepSpeed's flat float32 partitions."""
        if self.zero == 3:  # there the groups are empty except during a step
            return list(self.deepspeed.optimizer.fp32_partitioned_groups_flat)
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def state(self) -> dict[str, Tensor]:
        """This rank's optimizer state: ``<i>.master`` and ``<i>.<moment>`` for its i-th flat tensor."""
        tensors: dict[str, Tensor] = {}
        for index, master in enumerate(self._fp32_params()):
            tensors[f"{index}.master"] = master.detach()
            for key, value in self.optimizer.state[master].items():
                tensors[f"{index}.{key}"] = value
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what ``state`` gave on the same rank of as many ranks; the model must hold the same weights."""
        masters = self._fp32_params()
        shapes = {f"{index}.master": master.shape for index, master in enumerate(masters)}
        found = {key: value.shape for key, value in tensors.items() if key.endswith(".master")}
        if shapes != found:
            raise CheckpointError(f"the optimizer state holds {found}, this run's optimizer needs {shapes}")
        for key, value in tensors.items():
            index, name = key.split(".", 1)
            master = masters[int(index)]
            if name == "master":
                with torch.no_grad():
                    master.copy_(value)
            else:
                # the step counter of a fused AdamW lies beside its parameter, as the moments do
                self.optimizer.state[master][name] = value.to(master.device).clone()

    def frozen_digest(self) -> str:
        """Digest over what this rank holds of each frozen parameter and buffer; RuntimeError if one has a gradient.

        Buffers of a module whose own parameters learn are not frozen: running statistics.
        """
        # not of cryptographic strength: it is compared within this process, and reads memory ten times as fast
        digest = xxhash.xxh3_128()
        # a buffer has no gradient that would tell whether it is frozen: it goes with the parameters of its module
        learning = {name.rpartition(".")[0] for name, p in self.model.named_parameters() if p.requires_grad}
        held: dict[str, Tensor] = {name: p for name, p in self.model.named_parameters() if not p.requires_grad}
        held |= {name: b for name, b in self.model.named_buffers() if name.rpartition(".")[0] not in learning}
        for name, tensor in held.items():
            if tensor.grad is not None:
                raise RuntimeError(f"{name} is frozen and has a gradient")
            # with ZeRO-3 the tensor itself is empty and DeepSpeed's `ds_tensor` this rank's part of it
            shard = tensor.ds_tensor if hasattr(tensor, "ds_tensor") else tensor
            digest.update(name.encode())
            digest.update(shard.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def close(self) -> None:
        """Releases DeepSpeed's buffers and hooks; the model is rebuilt for the next stage."""
        self.deepspeed.destroy()
        if self.zero == 3:
            from deepspeed.runtime.zero import parameter_offload

            # DeepSpeed 0.19 puts each model in this list and never takes it out: it would stay beside the next stage's
            parameter_offload.FWD_MODULE_STACK.clear()

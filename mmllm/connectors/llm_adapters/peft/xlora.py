"""X-LoRA by the peft library: a classifier on the LLM's own last states weighs trained LoRAs; used by ``peft``.

Each pass of the LLM is preceded by one without adapters, whose keys and values are cached beside the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from peft import XLoraConfig
from peft.tuners.xlora.classifier import XLoraClassifier
from peft.tuners.xlora.layer import XLoraLinearLayer
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from mmllm.connectors.llm_adapters.peft.experts import Expert, TunerExperts
from mmllm.hooks import ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints


class TunerXLora(TunerExperts):
    """X-LoRA (Buehler 2024, arXiv:2402.07148): ``y + sum_e c_e scaling_e B_e A_e x``, by a classifier."""

    def __init__(self, base: nn.Module, experts: Sequence[Expert], name: str, number: int, config: XLoraConfig) -> None:
        """``name`` of the frozen layer, ``number`` of it among those that the experts work on."""
        super().__init__(base, experts, name)
        self.tuner.set_adapter(self.names)
        on = SimpleNamespace(disabled=False)  # all that peft (0.21) asks of its own model here
        self.routed = XLoraLinearLayer(on, self.tuner, self.tuner.forward, number, config)

    def forward(self, x: Tensor, output: Tensor, scalings: Tensor | None = None) -> Tensor:
        """Change the output as every :class:`Tuner`; ``scalings`` float[R, S, layers, E]."""
        assert scalings is not None
        rows = scalings.shape[:2]
        # a copy of the output, because peft adds to it in place
        flat = self.routed.forward(x.reshape(*rows, -1), output=output.reshape(*rows, -1).clone(), scalings=scalings)
        changed: Tensor = flat.view(output.shape)
        return changed


class Router(nn.Module):
    """peft's classifier and the passes without adapters that it reads."""

    def __init__(self, llm: LLMHookPoints, n_layers: int, options: Mapping[str, Any]) -> None:
        """``n_layers``: number of layers with experts; ``options`` of the connector."""
        super().__init__()
        self.config = XLoraConfig(
            hidden_size=llm.model.get_output_embeddings().in_features,  # OPT narrows its last states
            adapters={str(number): folder for number, folder in enumerate(options["adapters"])},
            top_k_lora=options["top_k"],
            softmax_temperature=options["temperature"],
            xlora_depth=options["depth"],
            xlora_size=options["width"],
            xlora_dropout_p=options["dropout"],
            layerwise_scalings=options["layerwise"],
        )
        n_classes = len(options["adapters"])
        self.classifier = XLoraClassifier(llm.model, self.config, n_classes, n_layers, llm.device).float()

    def scalings(self, ctx: ForwardContext) -> Tensor:
        """float[R, S, layers, E] of the pass, also while it is computed again in the backward pass."""
        found: Tensor = ctx.notes[self, "scalings"]
        return found

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Run the LLM without adapters before each of its passes, and keep what the classifier says of it."""

        # hooks of torch, not of the LLM: what stands here is for the whole decoder, whose arguments it needs
        def first(decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            cache, notes = kwargs.get("past_key_values"), llm.scope.current.notes
            # passes without adapters have keys and values of their own, from the first of a decoding on
            shadow = None if cache is None else _shadow(cache, self) or llm.new_cache()
            notes[self, "shadow"] = shadow
            with torch.no_grad(), llm.scope.off():
                words = {**kwargs, "past_key_values": shadow, "extensions": {}}
                states = decoder.forward(*args, **words).last_hidden_state.float()  # not called: hooks are for the pass
            # the namespace is all that peft's classifier (read in 0.21) asks of an output of transformers
            notes[self, "scalings"] = self.classifier(SimpleNamespace(hidden_states=(states,)), inputs_embeds=states)

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            cache, shadow = kwargs.get("past_key_values"), llm.scope.current.notes.pop((self, "shadow"))
            if cache is not None and shadow is not None and _shadow(cache, self) is None:
                cache.layers.append(ExtraCache(shadow, self))

        made = [
            llm.decoder.register_forward_pre_hook(first, with_kwargs=True),
            llm.decoder.register_forward_hook(keep, with_kwargs=True),
        ]
        return Handle.of([Handle(hook.remove) for hook in made])


class ExtraCache(DynamicLayer):
    """Last layer of a cache that holds another cache, so that rows which finish leave both.

    Caches of transformers (5) are lists of layers and hand every selection of rows to each of them.
    """

    def __init__(self, shadow: DynamicCache, owner: Router) -> None:
        super().__init__()
        self.shadow, self.owner = shadow, owner

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the other cache."""
        self.shadow.batch_select_indices(indices)


def _shadow(cache: DynamicCache, owner: Router) -> DynamicCache | None:
    """Cache of the passes without adapters that ``owner`` keeps in ``cache``."""
    found = [layer.shadow for layer in cache.layers if isinstance(layer, ExtraCache) and layer.owner is owner]
    return found[0] if found else None

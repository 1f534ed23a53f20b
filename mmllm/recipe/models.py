"""The recipe as frozen pydantic models: what each word of the YAML means, its type, limits and default.

Filled by ``load.py`` (which reads the YAML and checks what goes across sections) and handed to everything downstream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from mmllm.recipe.item_texts import StepText, Stitching, TileText
from mmllm.recipe.part_arguments import shown
from mmllm.recipe.section import Positive, Section
from mmllm.recipe.stage_sections import Cache, Distill, SharePrefix, switch
from mmllm.recipe.starts import Start, as_start
from mmllm.recipe.token_texts import token_texts

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Letters, digits, _ . -")]
# a key becomes <key> in texts and a module's name, which may hold no dot
Key = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


def _unless_causal(value: str | None) -> str | None:
    """What is causal is as it would be without the word."""
    return None if value == "causal" else value


class Llm(Section):
    """The frozen causal LM."""

    path: str = Field(
        min_length=1, description="Hugging Face name, local folder (a published VLM's: its text model) or GGUF file"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on GPUs that have it, float32 on CPU"
    )
    quantize: Literal["nf4", "int8", "int8_weight_only"] | None = Field(
        None,
        description="weights of the LLM's linear layers in 4 or 8 bits (bitsandbytes); int8 is LLM.int8, which rounds "
        "activations too; default: as dtype says",
    )
    context: Positive = Field(2048, description="longest conversation in tokens, media included")
    attention: Literal["causal", "prefix"] | None = Field(
        None,
        description="prefix: what precedes its first answer, media and question, sees itself in both directions; "
        "default: causal",
    )
    file: str | None = Field(None, min_length=1, description="which GGUF file of a folder that has several")
    template: str | None = Field(
        None, min_length=1, description="chat template in place of the tokenizer's: chatml, llama3 or a jinja file"
    )
    tokens: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="new tokens, whose rows learn alone where train names llm.tokens; <loc{000..999}> is a thousand",
    )

    @field_validator("tokens", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Strict mode takes no list that came by Python; the texts are those of tokens."""
        if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
            token_texts(value)
        return tuple(value) if isinstance(value, list) else value

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """Texts of the new tokens, in order."""
        return token_texts(self.tokens or ())

    _attention = field_validator("attention")(_unless_causal)


class ComponentSpec(Section):
    """An encoder, connector or dataset: a type and the arguments of its class, written flat in the YAML."""

    type: str = Field(min_length=1, description='name from `mmllm ls`, or "module:Class"')
    source: str | tuple[str, ...] | None = Field(
        None, description="connectors only, `from` in YAML: the encoder whose features enter, or a list of several"
    )
    when: tuple[str, ...] | None = Field(
        None, description="connectors only: works where media of one of these placeholders is"
    )
    adapts: tuple[str, ...] | None = Field(
        None, serialization_alias="inside", description="connectors only: the encoders in whose blocks it works"
    )
    times: str | None = Field(
        None,
        description="connectors only: text before the tokens of each step in time; {s:.1f}: seconds, {n}: its number",
    )
    token: str | None = Field(
        None,
        min_length=1,
        description="connectors only: the LLM's own token for an item, which its chat template writes for a part of a "
        "message; default: the place is where the text has it",
    )
    around: tuple[str, str] | None = Field(
        None, description="connectors only: text of the LLM before and behind every item, control tokens included"
    )
    tiles: TileText | None = Field(None, description="connectors only: text between the tiles of a picture")
    steps: StepText | None = Field(None, description="connectors only: text at the steps in time of a clip")
    attends: Literal["causal", "bidirectional"] | None = Field(
        None,
        description="connectors only: bidirectional: the tokens of one item see each other in both directions; "
        "default: causal",
    )
    stitch: Stitching | None = Field(
        None, description="connectors only: one map of all tiles of a picture, behind the connector"
    )
    rows: str | None = Field(
        None,
        min_length=1,
        description="connectors only: text of the LLM between the rows of a picture's tokens, control tokens included",
    )
    shares: str | None = Field(
        None, description="connectors only: a connector in front of it whose weights it uses, as one of its own"
    )
    start: Start | None = Field(
        None,
        description="connectors only: weights to begin with: a place or {path, stage, prefix, rename}; or words, "
        "scaled or {by, data, items}, computed before the first step",
    )
    system: str | None = Field(
        None,
        description="data only: system message of conversations that have none; empty: without the one that the chat "
        "template writes where there is none",
    )
    group: str | None = Field(
        None, min_length=1, description="data only: whose it is; what learned from it is served to this group alone"
    )
    args: dict[str, Any] = Field(default_factory=dict, description="every other word: keyword arguments of the class")

    @field_validator("source", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """One problem for a wrong type, not one for each that it could be."""
        names = value if isinstance(value, list | tuple) else [value]
        if value is not None and not all(isinstance(name, str) for name in names):
            raise ValueError(f"found {shown(value)}, expected the key of an encoder or a list of keys")
        return tuple(value) if isinstance(value, list) else value  # strict mode takes no list that came by Python

    _start = field_validator("start", mode="before")(as_start)
    _attends = field_validator("attends")(_unless_causal)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Keys of the encoders whose features it takes, in order; none for a connector without `from`."""
        if self.source is None:
            return ()
        return (self.source,) if isinstance(self.source, str) else self.source


def trains_llm(name: str) -> bool:
    """Whether a name under ``train`` means weights of the LLM itself: its new tokens are none."""
    return name.partition(".")[0] == "llm" and not f"{name}.".startswith("llm.tokens.")


SWITCHES: dict[str, type[Section]] = {"cache": Cache, "share_prefix": SharePrefix}
"""Words of stages and of ``eval`` that are ``true``, ``false`` or a section of their own."""


class Stage(Section):
    """One training stage. What ``train`` names learns, everything else is frozen."""

    train: dict[str, Rate] = Field(
        min_length=1, description="llm, llm.tokens, encoders.<key> or connectors.<key>: peak learning rate"
    )
    data: dict[str, Rate] = Field(min_length=1, description="data entry: weight (1.0 each: natural sizes)")
    epochs: Rate | None = Field(None, description="passes over the data; either this or steps")
    steps: Positive | None = Field(None, description="optimizer steps; either this or epochs")
    batch: Positive = Field(description="conversations per optimizer step over all GPUs; accumulation is computed")
    micro_batch: Positive | None = Field(
        None, description="conversations per forward on one GPU; default: batch / GPUs"
    )
    tokens: Positive | None = Field(
        None, description="most tokens of one forward on one GPU; as many forwards as they need, instead of micro_batch"
    )
    share_prefix: SharePrefix | None = Field(
        None,
        description="true, or {most, reach}: conversations about the same media share their beginning",
    )
    cache: Cache | None = Field(
        None,
        description="keep features of frozen encoders: true or {dir, dtype, encoders}; default: compute each time",
    )
    warmup: Share = Field(0.03, description="share of the steps with rising learning rate")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False, description="not on norms and biases")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    clip: float = Field(1.0, ge=0, allow_inf_nan=False, description="largest gradient norm; 0: none")
    zero: int = Field(0, ge=0, le=3, description="DeepSpeed ZeRO stage")
    offload: Literal["none", "optimizer", "all"] = Field("none", description="what DeepSpeed keeps in CPU memory")
    gradient_checkpointing: bool = False
    workers: int | None = Field(
        None, ge=0, description="threads that read and pack steps ahead; default: 4 on a GPU, 0 on a CPU"
    )
    max_bad: Share = Field(0.01, description="largest share of unusable samples before the stage stops")
    save_every: Positive | None = Field(None, description="steps between checkpoints; one is always written at the end")
    keep: Positive = Field(2, description="newest checkpoints kept per stage")
    log_every: Positive = Field(10, description="steps between log lines")
    deepspeed: dict[str, Any] = Field(default_factory=dict, description="passed to DeepSpeed's config as it is")
    monitor: dict[str, Any] = Field(
        default_factory=dict, description="DeepSpeed monitor blocks: tensorboard, wandb, csv"
    )
    distill: Distill | None = Field(
        None,
        description="text, or {by: text, weight}: the answer given an item is also drawn to what the LLM answers given "
        "the item's text",
    )

    _cache = field_validator("cache", mode="before")(switch(Cache))
    _sharing = field_validator("share_prefix", mode="before")(switch(SharePrefix))

    @field_validator("distill", mode="before")
    @classmethod
    def _taught(cls, value: Any) -> Any:
        """One word is what the teacher reads."""
        return {"by": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _agrees(self) -> Stage:
        """Words that limit each other."""
        if self.micro_batch and self.tokens:
            raise ValueError(
                f"found both micro_batch {self.micro_batch} and tokens {self.tokens}; a forward is limited by "
                "conversations or by tokens: give one of the two"
            )
        if (self.epochs is None) == (self.steps is None):
            found = "both epochs and steps" if self.epochs else "neither epochs nor steps"
            raise ValueError(f"found {found}; give exactly one of the two (an override such as epochs= takes one away)")
        if self.micro_batch and self.batch % self.micro_batch:
            raise ValueError(
                f"micro_batch {self.micro_batch} does not divide batch {self.batch}; "
                "batch is the product of micro_batch, GPUs and accumulation"
            )
        if self.offload != "none" and self.zero < {"optimizer": 1, "all": 3}[self.offload]:
            least = {"optimizer": 1, "all": 3}[self.offload]
            raise ValueError(f"offload {self.offload} needs zero {least} or more, found zero {self.zero}")
        return self


SHOTS = "shots"
"""Word of any entry of ``benchmarks``: solved questions in front of each."""
BENCHMARK_WORDS = ("type", "system", SHOTS)
"""Words of an entry of ``benchmarks`` that are no arguments of its class."""


def benchmark_part(name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Registered type and arguments of an entry of ``benchmarks``: ``signs: {type: qa, path: ...}`` is a ``qa``."""
    own = {word: value for word, value in arguments.items() if word not in BENCHMARK_WORDS}
    return arguments.get("type", name), own


class Eval(Section):
    """Benchmarks and settings of ``mmllm eval``."""

    benchmarks: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="a list of names, or name: arguments of its class; with `type:` the name is your own; `shots:` a "
        "number of solved questions in front of each, or {n, seed, path or split}; `system:` the system message of its "
        "conversations, as under data",
    )
    max_new_tokens: Positive = 32
    batch: Positive = 16
    blind: bool = Field(False, description="also score without the media")
    cache: Cache | None = Field(None, description="keep features of frozen encoders, as under a stage")

    _cache = field_validator("cache", mode="before")(switch(Cache))

    @property
    def parts(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Name of each benchmark -> its registered type, which is its name where ``type`` says none, and arguments."""
        return {name: benchmark_part(name, arguments) for name, arguments in self.benchmarks.items()}

    @field_validator("benchmarks", mode="after")
    @classmethod
    def _typed(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, arguments in value.items():
            if "type" in arguments and not isinstance(arguments["type"], str):
                raise ValueError(f"{name}: found the type {arguments['type']!r}; it is the name of a benchmark")
            shots = arguments.get(SHOTS)
            if shots is not None and (isinstance(shots, bool) or not isinstance(shots, int | dict)):
                raise ValueError(f"{name}: found shots: {shots!r}; write a number, or {{n: 4, seed: 0}}")
            if not isinstance(arguments.get("system", ""), str):
                raise ValueError(f"{name}: found the system message {arguments['system']!r}; it is a text")
            # it names the file of its answers
            if "type" in arguments and not re.fullmatch(r"[\w.-]+", name):
                raise ValueError(f'found the name "{name}"; a name is letters, digits, _, - and dots')
        return value

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """A list of names is a mapping without arguments."""
        if not isinstance(value, list | tuple):
            return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, dict) else value
        if not all(isinstance(name, str) for name in value):
            raise ValueError("found a list with something other than names; write names, or name: {arguments}")
        twice = sorted({name for name in value if value.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands twice; keep one")
        return {name: {} for name in value}


class Serve(Section):
    """Limits and address of ``mmllm serve``."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    hosts: list[str] = Field([], description="names besides `host` and the loopback's under which it may be asked")
    origins: list[str] = Field([], description="of web pages whose scripts may call it: `https://chat.example.org`")
    system: str | None = Field(None, description="message of conversations without one, of Python and chat too")
    max_new_tokens: Positive = 512
    max_images: Positive = Field(8, description="per request")
    max_pixels: Positive = Field(12_582_912, description="per image (4096 x 3072), checked before it is decoded")
    max_files: Positive = Field(4, description="videos, sounds, graphs, point clouds or documents per request, of each")
    max_seconds: float = Field(600.0, gt=0, description="length of one video or sound")
    max_body: Positive = Field(33_554_432, description="bytes per request")
    rows: Positive = Field(32, description="requests answered at once; `mmllm eval` answers `eval.batch` at once")
    kv_memory: Positive = Field(
        1_073_741_824,
        description="bytes of keys and values: of conversations being answered, and of earlier ones that others begin "
        "like; one alone is answered whatever it takes",
    )
    media_memory: Positive = Field(268_435_456, description="bytes of encoded media kept for later questions")
    sets_memory: Positive = Field(1_073_741_824, description="bytes of what runs of `--sets` learned that are kept")
    set_waiting: Positive = Field(8, description="requests of one of several models that may wait")
    cache: Cache | None = Field(
        None,
        description="read kept features of frozen encoders, as under a stage; keeps nothing of what is sent",
    )

    _cache = field_validator("cache", mode="before")(switch(Cache))


class Recipe(Section):
    """One run: what is built, trained, measured and served. Sections stand in the order data flows."""

    name: Name = Field(description="a new run's folder is runs/<name>; default: the file's name without .yaml")
    seed: int = Field(0, ge=0, lt=2**63)
    threads: Positive | None = Field(
        None,
        description="of torch in each rank of a training on a CPU; default: at a run's start the "
        "cores that it may use, shared by the ranks; later as many as then",
    )
    llm: Llm
    start: Start | None = Field(
        None, description="weights to begin with: another run, or a safetensors file; a path or {path, stage, ...}"
    )
    encoders: dict[Key, ComponentSpec] = Field(default_factory=dict)
    connectors: dict[Key, ComponentSpec] = Field(
        default_factory=dict,
        description="what learns between the frozen parts, or inside them; with `from`, the key is the placeholder: "
        "connectors.image fills <image>",
    )
    data: dict[Key, ComponentSpec] = Field(default_factory=dict)
    stages: dict[Key, Stage] = Field(default_factory=dict, description="run in order, each from the last one's weights")
    eval: Eval = Field(default_factory=lambda: Eval())
    serve: Serve = Field(default_factory=lambda: Serve())

    _run: Path | None = PrivateAttr(None)
    """Folder of the run that ``mmllm.load_recipe`` read it from: ``mmllm.train`` goes on there."""

    _start = field_validator("start", mode="before")(as_start)

"""Every way to damage a recipe gives one sentence: file and line (or override), path, what was found, what is known."""

from pathlib import Path

import pytest

from mmllm import registry
from mmllm.errors import RecipeError
from mmllm.recipe.load import load_recipe
from mmllm.recipe.models import Recipe, Stage
from tests.support.recipe_text import RECIPE

P = "tests.support.recipe_parts"
TOP = ", ".join(Recipe.model_fields)
STAGE = ", ".join(Stage.model_fields)
CONNECTORS = ", ".join(sorted(registry.table("connectors")))
ENCODERS = ", ".join(sorted(registry.table("encoders")))
BENCHMARKS = ", ".join(sorted(registry.table("benchmarks")))
HOLDS = "a recipe holds only text, numbers, true, false, null, lists and mappings."
TOO_LARGE = "more than 10000 values or 20 levels once its aliases are expanded; write the values out."
BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in ["ab", "bc", "cd", "de", "ef", "fg"]
)
LORA = 'Inner", rank: 4, when: [image]'
"""What an adapter stands instead of."""
SEVERAL = 'Projector", from: image, grid: [4, 4]}'
"""What a connector of several encoders stands instead of."""

WHOLE = {
    "empty file": ("", f"1: the file is empty; a recipe has the keys {TOP}."),
    "only comments": ("# nothing\n", f"1: the file is empty; a recipe has the keys {TOP}."),
    "a list": ("- name: demo\n", f"1: the file is not a mapping; a recipe has the keys {TOP}."),
    "plain text": ("demo\n", f"1: the file is not a mapping; a recipe has the keys {TOP}."),
    "tab": ("name: demo\nllm:\n\tpath: x\n", "3: this is not YAML: a tab is used as indentation; use spaces."),
    "bracket left open": (
        "name: demo\nllm: {path: x\n",
        "3: this is not YAML: while parsing a flow mapping, expected ',' or '}', but got '<stream end>'.",
    ),
    "two documents": (
        "name: demo\n---\nname: demo\n",
        "2: this is not YAML: expected a single document in the stream, but found another document.",
    ),
    "alias bomb": (BOMB, f"1: {TOO_LARGE}"),
    "alias of itself": ("name: &a [*a]\n", f"1: {TOO_LARGE}"),
    "alias of nothing": ("name: *a\n", "1: this is not YAML: found undefined alias 'a'."),
    "control character": ("name: de\x00mo\n", "1: this is not YAML: unacceptable character #x0000: special characters "
                          'are not allowed in "<unicode string>", position 8.'),
}  # fmt: skip
"""What -> (the file, the sentence after "recipe.yaml:")."""

DAMAGES = {
    # The YAML text
    "key twice": ("seed: 0", "name: again", "2: name: the key stands twice (first in line 1); keep one."),
    "exponent without dot": ("1.0e-3", "1e-3", "13: stages.align.train.connectors.image: found 1e-3, which YAML 1.1 reads "
                             'as text, not as a number; write 1.0e-3 (or "1e-3" if you mean text).'),
    "exponent without sign": ("1.0e-3", "1.0e3", "13: stages.align.train.connectors.image: found 1.0e3, which YAML 1.1 "
                              'reads as text, not as a number; write 1.0e+3 (or "1.0e3" if you mean text).'),
    "python object": ("name: demo", "name: !!python/object:os.system x",
                      f"1: name: found tag tag:yaml.org,2002:python/object:os.system; {HOLDS}"),
    "own tag": ("name: demo", "name: !env NAME", f"1: name: found tag !env; {HOLDS}"),
    "date": ("name: demo", "name: 2026-01-31",
             f'1: name: found a timestamp ("2026-01-31"); quote it to make it text; {HOLDS}'),
    "merge key": ("eval: {", "eval: {<<: {batch: 3}, ",
                  "20: eval: found a merge key (<<); a recipe is complete, write the keys out."),
    "number as key": ("name: demo", "1: demo", "1: found the key 1, which is not text; quote it."),
    # Keys
    "unknown key": ("seed: 0", "sede: 0", f'2: sede: unknown key; known: {TOP}; did you mean "seed"?'),
    "unknown key of llm": ("dtype:", "dtyp:", '3: llm.dtyp: unknown key; known: path, dtype, quantize, context, attention, file, template, tokens; did you mean "dtype"?'),
    "unknown key of a stage": ("warmup:", "warm_up:",
                               f'18: stages.align.warm_up: unknown key; known: {STAGE}; did you mean "warmup"?'),
    "llm path missing": ("path: some/llm, ", "", "3: llm.path: missing (Hugging Face name, local folder (a published VLM's: its text model) or GGUF file)."),
    "batch missing": ("    batch: 64\n    micro_batch: 8\n", "", "12: stages.align.batch: missing (conversations per "
                      "optimizer step over all GPUs; accumulation is computed)."),
    "type missing": (f'type: "{P}:Encoder", ', "", f"5: encoders.image.type: missing; known types: {ENCODERS}."),
    # Types and limits
    "text for a number": ("batch: 64", 'batch: "64"', '16: stages.align.batch: found "64" (text), expected a whole number; '
                          "write it without quotes."),
    "word for a number": ("epochs: 2", "epochs: two", '15: stages.align.epochs: found "two" (text), expected a number.'),
    "fraction for a count": ("batch: 64", "batch: 1.5", "16: stages.align.batch: found 1.5 (a number), expected a whole number."),
    "number for text": ("name: demo", "name: 12", "1: name: found 12 (a whole number), expected text; quote it to make it text."),
    "boolean for text": ("path: some/llm", "path: no",
                         "3: llm.path: found false (true or false), expected text; quote it to make it text."),
    "yes for a number": ("zero: 2", "zero: yes", "19: stages.align.zero: found true (true or false), expected a whole number."),
    "nothing": ("{path: some/llm, dtype: float32, context: 512}", "", "3: llm: found nothing (null), expected a mapping."),
    "list for a mapping": ("{path: some/llm, dtype: float32, context: 512}", "[a]",
                           '3: llm: found ["a"] (a list), expected a mapping.'),
    "part is text": ("{connectors.image: 1.0e-3}", "connectors.image",
                     '13: stages.align.train: found "connectors.image" (text), expected a mapping.'),
    "negative rate": ("1.0e-3", "-1.0e-3", "13: stages.align.train.connectors.image: found -0.001 (a number), expected more than 0."),
    "negative batch": ("batch: 64", "batch: -64", "16: stages.align.batch: found -64 (a whole number), expected more than 0."),
    "zero 4": ("zero: 2", "zero: 4", "19: stages.align.zero: found 4 (a whole number), expected at most 3."),
    "not a number": ("warmup: 0.03", "warmup: .nan", "18: stages.align.warmup: found NaN (a number), expected a finite number."),
    "warmup in steps": ("warmup: 0.03", "warmup: 100", "18: stages.align.warmup: found 100 (a whole number), expected at most 1."),
    "unknown schedule": ("zero: 2", "schedule: cosin", '19: stages.align.schedule: found "cosin" (text); unknown value; known: '
                         'cosine, linear, constant; did you mean "cosine"?'),
    "short betas": ("zero: 2", "betas: [0.9]", "19: stages.align.betas.1: missing; the list is too short."),
    "run name with a slash": ("name: demo", "name: a/b", '1: name: found "a/b" (text), expected letters, digits, _ . and -, the '
                              "first a letter or digit."),
    "placeholder with a space": ("  image: {type: \"tests.support.recipe_parts:Enc", '  my image: {type: "tests.support.recipe_parts:Enc',
                                 '5: encoders.my image: found "my image" (text), expected a name of letters, digits and _ '
                                 "that starts with a letter."),
    "trains nothing": ("{connectors.image: 1.0e-3}", "{}", "13: stages.align.train: found nothing in it, expected at least one "
                       "entry (llm, llm.tokens, encoders.<key> or connectors.<key>: peak learning rate)."),
    # Words that limit each other
    "epochs and steps": ("epochs: 2", "epochs: 2\n    steps: 9",
                         "12: stages.align: found both epochs and steps; give exactly one of the two (an override such as epochs= takes one away)."),
    "neither epochs nor steps": ("    epochs: 2\n", "",
                                 "12: stages.align: found neither epochs nor steps; give exactly one of the two (an override such as epochs= takes one away)."),
    "micro_batch does not divide": ("micro_batch: 8", "micro_batch: 7", "12: stages.align: micro_batch 7 does not divide batch 64; "
                                    "batch is the product of micro_batch, GPUs and accumulation."),
    "offload without zero": ("zero: 2", "zero: 2\n    offload: all",
                             "12: stages.align: offload all needs zero 3 or more, found zero 2."),
    "DeepSpeed key that is ours": ("zero: 2", "deepspeed: {gradient_clipping: 1.0}", "19: stages.align.deepspeed.gradient_clipping: "
                                   "set by the recipe's clip; remove it here."),
    "nested DeepSpeed key that is ours": ("zero: 2", "deepspeed: {zero_optimization: {reduce_scatter: true, stage: 3}}",
                                          "19: stages.align.deepspeed.zero_optimization.stage: set by the recipe's zero; "
                                          "remove it here."),
    "unknown monitor": ("zero: 2", "monitor: {tensorbord: {}}", "19: stages.align.monitor.tensorbord: unknown monitor; known: "
                        'tensorboard, wandb, csv, comet; did you mean "tensorboard"?'),
    # Parts and their arguments
    "unknown type": (f"{P}:Projector", "pol",
                     f'7: connectors.image.type: connectors has no type "pol"; known: {CONNECTORS}; did you mean "pool"?'),
    "no such class": (f"{P}:Projector", f"{P}:Projectr", f'7: connectors.image.type: "{P}:Projectr" cannot be found: module {P} '
                      'has no class Projectr; did you mean "Projector"?'),
    "no such module": (f"{P}:Projector", "tests.nowhere:Projector", '7: connectors.image.type: "tests.nowhere:Projector" cannot be '
                       "found: there is no module tests.nowhere."),
    "unknown argument": ("layers:", "layer:", f"5: encoders.image.layer: unknown argument of {P}:Encoder; known: model, layers, "
                         'size; did you mean "layers"?'),
    "missing argument": (", grid: [4, 4]", "", f'7: connectors.image: {P}:Projector needs the argument "grid" (tuple[int, int]); '
                         "known: grid, act, bias."),
    "argument of a wrong type": ("rank: 4", "rank: four", '8: connectors.lora.rank: found "four" (text), expected int.'),
    "argument of a wrong length": ("[4, 4]", "[4]", "7: connectors.image.grid: found [4] (a list), expected tuple[int, int]."),
    "argument outside its values": ("grid:", "act: swish, grid:", '7: connectors.image.act: found "swish" (text), expected '
                                    "Literal['gelu', 'relu']."),
    "argument that the build gives": ("rank: 4", "llm_dim: 4",
                                      f"8: connectors.lora.llm_dim: unknown argument of {P}:Inner; known: rank, scale."),
    "from in a source": ("path: captions", "from: image, path: captions",
                         f"10: data.captions.from: unknown argument of {P}:Source; known: path, media."),
    # Names that point to other sections
    "from nothing": ("from: image", "from: imag", '7: connectors.image.from: found "imag"; unknown encoder; known: image; did you '
                     'mean "image"?'),
    "projector without from": ("from: image, ", "", f'7: connectors.image: "from" is missing; {P}:Projector takes features; known '
                               "encoders: image."),
    "inner connector with from": ("rank: 4", "from: image, rank: 4", f"8: connectors.lora.from: {P}:Inner works inside the LLM and "
                                  "takes no encoder's features; remove it."),
    "two connectors of one encoder": ("  lora: {", f'  second: {{type: "{P}:Projector", from: image, grid: [1, 1]}}\n  lora: {{',
                                      '8: connectors.second.from: found "image", which already enters through connectors.image; one '
                                      "connector fills the places of <image>."),
    "encoder without connector": ("connectors:\n", f'  page: {{type: "{P}:Encoder", model: x}}\nconnectors:\n', "6: encoders.page: "
                                  "no connector has `from: page`, so its features go nowhere; add one."),
    "when nothing": ("when: [image]", "when: [imge]",
                     '8: connectors.lora.when: found "imge"; unknown placeholder; known: image; did you mean "image"?'),
    "when beside from": ("from: image, grid", "from: image, when: [image], grid",
                         "7: connectors.image.when: a connector with `from` works where its own items are; leave it out."),
    # Inside encoders, times in the text
    "adapts missing": (LORA, 'Adapter", rank: 4', f'8: connectors.lora: "adapts" is missing; {P}:Adapter works inside encoders, '
                       "name them; known encoders: image."),
    "adapts nothing": (LORA, 'Adapter", adapts: [imge]', '8: connectors.lora.adapts: found "imge"; unknown encoder; known: image; '
                       'did you mean "image"?'),
    "adapts of one that cannot": ("rank: 4", "rank: 4, adapts: [image]",
                                  f"8: connectors.lora.adapts: {P}:Inner does not work inside encoders; remove it."),
    "projector adapts": ("from: image", "from: image, adapts: [image]",
                         f"7: connectors.image.adapts: {P}:Projector does not work inside encoders; remove it."),
    "adapts is text": (LORA, 'Adapter", adapts: image', '8: connectors.lora.adapts: found "image" (text), expected a list.'),
    "adapts names none": (LORA, 'Adapter", adapts: []',
                          f'8: connectors.lora: "adapts" is missing; {P}:Adapter works inside encoders, name them; '
                          "known encoders: image."),
    "when inside encoders": (LORA, 'Adapter", adapts: [image], when: [image]', "8: connectors.lora.when: a connector inside "
                             "encoders works on all they read; leave it out."),
    "adapter with from": (LORA, 'Adapter", adapts: [image], from: image', f"8: connectors.lora.from: {P}:Adapter works inside "
                          "encoders and takes no encoder's features; remove it."),
    "aligner without from": (f"{P}:Projector\", from: image, grid: [4, 4]", f"{P}:Aligner\"", f'7: connectors.image: "from" is '
                             f"missing; {P}:Aligner takes features; known encoders: image."),
    "inside and adapts": (LORA, 'Adapter", adapts: [image], inside: [image]',
                          f"8: connectors.lora.inside: unknown argument of {P}:Adapter; known: rank."),
    # Kinds, several encoders
    "connector of no kind": (LORA, 'Kindless"', f'8: connectors.lora.type: "{P}:Kindless" is no connector: its class must derive '
                             "from Projector, DeepFusion, LLMAdapter or EncoderAdapter of mmllm.connectors.base."),
    "connector of no base": (LORA, 'Source"', f'8: connectors.lora.type: "{P}:Source" is no connector: its class must derive '
                             "from Projector, DeepFusion, LLMAdapter or EncoderAdapter of mmllm.connectors.base."),
    "several encoders for one": ("from: image", "from: [image, page]", '7: connectors.image.from: found "page"; unknown encoder; '
                                 'known: image; did you mean "image"?'),
    "encoder named twice": (SEVERAL, 'Several", from: [image, image]}', '7: connectors.image.from: found "image" twice; name each '
                            "encoder once."),
    "no encoder named": (SEVERAL, 'Several", from: []}', "7: connectors.image.from: found an empty list; name at least one encoder."),
    "from is a number": ("from: image", "from: 3", "7: connectors.image.from: found 3 (a whole number), expected the key of an "
                         "encoder or a list of keys."),
    "from lists a number": ("from: image", "from: [image, 3]", '7: connectors.image.from: found ["image", 3] (a list), expected the '
                            "key of an encoder or a list of keys."),
    "times without from": ("rank: 4", 'rank: 4, times: "{s}"', "8: connectors.lora.times: a connector without `from` gives no tokens "
                           "that times could stand before; remove it."),
    "times with an unknown word": ("from: image", 'from: image, times: "{t}s"', '7: connectors.image.times: found "{t}s", which cannot '
                                   "be filled in ('t'); known: {s} (seconds) and {n} (number)."),
    "times with no word": ("from: image", 'from: image, times: "{}"', '7: connectors.image.times: found "{}", which cannot be filled '
                           "in (Replacement index 0 out of range for positional args tuple); known: {s} (seconds) and {n} (number)."),
    "times with an open brace": ("from: image", 'from: image, times: "{s"', '7: connectors.image.times: found "{s", which cannot be '
                                 "filled in (expected '}' before end of string); known: {s} (seconds) and {n} (number)."),
    "times of something else": ("from: image", 'from: image, times: "{s.day}"', '7: connectors.image.times: found "{s.day}", which '
                                "cannot be filled in ('float' object has no attribute 'day'); known: {s} (seconds) and {n} (number)."),
    "times of a part of it": ("from: image", 'from: image, times: "{n[0]}"', '7: connectors.image.times: found "{n[0]}", which cannot '
                              "be filled in ('int' object is not subscriptable); known: {s} (seconds) and {n} (number)."),
    "times is a number": ("from: image", "from: image, times: 3",
                          "7: connectors.image.times: found 3 (a whole number), expected text; quote it to make it text."),
    "steps with an unknown word": ("from: image", 'from: image, steps: {step: "{t}s"}', '7: connectors.image.steps.step: found "{t}s", '
                                   "which cannot be filled in ('t'); known: {s} (seconds), {n}, {minutes} and {seconds} (numbers)."),
    "steps begin with an unknown word": ("from: image", 'from: image, steps: {begin: "{s}"}', '7: connectors.image.steps.begin: found '
                                         "\"{s}\", which cannot be filled in ('s'); known: {steps}, {words} and {duration}."),
    "steps and times": ("from: image", 'from: image, steps: {step: "{s}"}, times: "{s}"', "7: connectors.image.steps: text stands at "
                        "`steps` or at `times`, not at both; remove one."),
    "trains nobody": ("{connectors.image:", "{connector.image:", "13: stages.align.train.connector.image: unknown part; known: llm, "
                      'encoders.image, connectors.image, connectors.lora; did you mean "connectors.image"?'),
    "unknown data": ("{captions: 1.0}", "{caption: 1.0}", "14: stages.align.data.caption: unknown data entry; known: captions; did "
                     'you mean "captions"?'),
    "unknown benchmark": ("[docvqa]", "[docvq]", f'20: eval.benchmarks.docvq: benchmarks has no type "docvq"; known: {BENCHMARKS}; '
                          'did you mean "docvqa"?'),
    "benchmark twice": ("[docvqa]", "[docvqa, docvqa]", "20: eval.benchmarks: docvqa stands twice; keep one."),
    "benchmarks are a number": ("[docvqa]", "3", "20: eval.benchmarks: found 3 (a whole number), expected a mapping."),
    "no stages": (RECIPE[RECIPE.index("stages:") : RECIPE.index("eval:")], "",
                  "1: stages: missing; a recipe trains in at least one stage."),
}  # fmt: skip
"""What -> (text of the recipe, what stands there instead, the sentence after "recipe.yaml:")."""

OVERRIDES = {
    "near name": ("stages.algn.batch=64", 'stages.algn: unknown key; known: align; did you mean "align"?'),
    "no such section": ("stage.align.batch=64", f'stage: unknown key; known: {TOP}; did you mean "stages"?'),
    "no such word": ("stages.align.bach=64", f'stages.align.bach: unknown key; known: {STAGE}; did you mean "batch"?'),
    "no such argument": ("encoders.image.modle=x",
                         f'encoders.image.modle: unknown argument of {P}:Encoder; known: model, layers, size; did you mean "model"?'),
    "wrong type": ("stages.align.batch=many", 'stages.align.batch: found "many" (text), expected a whole number.'),
    "no value": ("stages.align.batch=", "stages.align.batch: found nothing (null), expected a whole number."),
    "no equals sign": ("stages.align.batch", "there is no path=value in it; write e.g. stages.align.batch=64."),
    "no path": ("=64", "there is no path=value in it; write e.g. stages.align.batch=64."),
    "below a value": ("stages.align.batch.x=1", "stages.align.batch.x: stages.align.batch is not a mapping, so nothing can be set in it."),
    "exponent": ("stages.align.clip=1e-3", 'stages.align.clip: found 1e-3, which YAML 1.1 reads as text, not as a number; write '
                 '1.0e-3 (or "1e-3" if you mean text).'),
    "not YAML": ("stages.align.betas=[0.9", "stages.align.betas: this is not YAML: while parsing a flow sequence, expected ',' or ']', "
                 "but got '<stream end>'."),
    "trains nobody": ("stages.align.train.connectors.lra=1.0", "stages.align.train.connectors.lra: unknown part; known: llm, "
                      'encoders.image, connectors.image, connectors.lora; did you mean "connectors.lora"?'),
}  # fmt: skip
"""What -> (the override, the sentence after `override "...": `)."""


def sentences(folder: Path, text: str, overrides: tuple[str, ...] = ()) -> list[str]:
    """What reading this text as recipe.yaml complains of, without the folder's name."""
    file = folder / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, overrides)
    return str(caught.value).replace(f"{folder}/", "").split("\n")


@pytest.mark.parametrize("what", WHOLE)
def test_file_that_is_no_recipe(what: str, tmp_path: Path) -> None:
    text, sentence = WHOLE[what]
    assert sentences(tmp_path, text) == [f"recipe.yaml:{sentence}"]


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_recipe(what: str, tmp_path: Path) -> None:
    old, new, sentence = DAMAGES[what]
    assert RECIPE.count(old) >= 1, "the recipe no longer holds what this case damages"
    found = sentences(tmp_path, RECIPE.replace(old, new, 1))
    assert found[0] == f"recipe.yaml:{sentence}"
    assert (len(found) > 1) == (what in FOLLOWED), found


FOLLOWED = {
    "several encoders for one",
    "no encoder named",
    "from nothing",
    "projector without from",
    "inner connector with from",
    "adapter with from",
    "aligner without from",
}
"""Damages with a second consequence, which is listed too."""


@pytest.mark.parametrize("what", OVERRIDES)
def test_damaged_override(what: str, tmp_path: Path) -> None:
    override, sentence = OVERRIDES[what]
    assert sentences(tmp_path, RECIPE, (override,)) == [f'override "{override}": {sentence}']


TWO = RECIPE.replace("connectors:\n", f'  page: {{type: "{P}:Encoder", model: x}}\nconnectors:\n')
"""The recipe with a second encoder, which nothing reads."""


def test_a_connector_of_one_encoder_takes_no_two(tmp_path: Path) -> None:
    assert sentences(tmp_path, TWO.replace("from: image", "from: [image, page]")) == [
        f"recipe.yaml:8: connectors.image.from: found 2 encoders, but {P}:Projector takes the features of one; name one, or put a "
        "connector that takes several (concat) there."
    ]


def test_a_connector_of_several_encoders_takes_them(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(TWO.replace(SEVERAL, 'Several", from: [image, page]}'))
    assert load_recipe(tmp_path / "recipe.yaml").connectors["image"].encoders == ("image", "page")


def test_a_placeholder_is_the_key_of_the_connector(tmp_path: Path) -> None:
    text = RECIPE.replace("  image: {" + f'type: "{P}:Projector', "  picture: {" + f'type: "{P}:Projector')
    assert sentences(tmp_path, text.replace("connectors.image", "connectors.picture")) == [
        'recipe.yaml:8: connectors.lora.when: found "image"; unknown placeholder; known: picture; what the encoder image '
        "reads fills <picture>, its connector's key."
    ]


def test_the_former_word_inside_is_read_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace(LORA, 'Adapter", inside: [image]'))
    with pytest.warns(FutureWarning, match=r"connectors\.\w+\.inside is called `adapts` now"):
        recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.connectors["lora"].adapts == ("image",)
    with pytest.warns(FutureWarning, match="adapts"):
        found = sentences(tmp_path, RECIPE.replace(LORA, 'Adapter", inside: [imge]'))
    assert found == [
        'recipe.yaml:8: connectors.lora.adapts: found "imge"; unknown encoder; known: image; did you mean "image"?'
    ]


def test_every_problem_is_listed(tmp_path: Path) -> None:
    text = RECIPE.replace("seed: 0", "seed: x").replace("batch: 64", "batch: 0").replace("zero: 2", "zro: 2")
    assert [line.split(": ")[1] for line in sentences(tmp_path, text)] == [
        "seed",
        "stages.align.batch",
        "stages.align.zro",
    ]


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: the recipe cannot be read: No such file or directory\.$"):
        load_recipe(tmp_path / "none.yaml")


def test_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"recipe\.yaml: the recipe cannot be read: it is not UTF-8 text\.$"):
        load_recipe(tmp_path / "recipe.yaml")

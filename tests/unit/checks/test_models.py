"""What `mmllm check` says of a model's folder is what loading it would meet: every case is loaded as well."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from mmllm.checks.tokenizers import TokenizerFiles, template_problems
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.llms.causal_lm import CausalLM
from mmllm.messages.tokenize import Prompter
from mmllm.testing import FAMILIES, tiny_llm_folder, tiny_model, tiny_tokenizer
from tests.support.checked import Checked
from tests.support.gguf_files import write_gguf
from tests.support.places import TEMPLATES
from tests.support.vlms import CONFIGS, vlm_folder


def llm(changes: Callable[[Path], None] | None = None, shards: str = "5GB") -> Callable[[Path], Path]:
    """Maker of a folder of a tiny LLM that is damaged afterwards."""

    def make(tmp: Path) -> Path:
        folder = tmp / "lm"
        tiny_model("llama").save_pretrained(folder, max_shard_size=shards)
        tiny_tokenizer().save_pretrained(folder)
        if changes:
            changes(folder)
        return folder

    return make


def halve(name: str) -> Callable[[Path], None]:
    """Keep the first half of a file."""

    def change(folder: Path) -> None:
        file = sorted(folder.glob(name))[-1]
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return change


def written(name: str, content: bytes | str) -> Callable[[Path], None]:
    """Put another content into a file."""
    return lambda folder: (
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode()) and None
    )


def config(**words: object) -> Callable[[Path], None]:
    """Change words of config.json."""

    def change(folder: Path) -> None:
        known = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(known | words))

    return change


def without(*names: str) -> Callable[[Path], None]:
    """Remove files."""
    return lambda folder: [file.unlink() for name in names for file in sorted(folder.glob(name))][:0] and None


def bin_only(folder: Path) -> None:
    """Weights as older releases saved them."""
    torch.save(tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def adapter(folder: Path) -> None:
    """A PEFT adapter's folder."""
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))


def lost_tensor(folder: Path) -> None:
    """A shard without a tensor that the index places there."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    file = folder / index["weight_map"]["model.norm.weight"]
    held = load_file(file)
    del held["model.norm.weight"]
    save_file(held, file)


def t5(folder: Path) -> None:
    """An encoder-decoder."""
    small = transformers.T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    shutil.rmtree(folder)
    transformers.T5ForConditionalGeneration(small).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


LLMS = {
    "shortened": (llm(halve("model.safetensors")), "model.safetensors is shortened: "),
    "header": (llm(written("model.safetensors", b"\x08")), "model.safetensors is no safetensors file (1 bytes)"),
    "pointer": (
        llm(written("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n")),
        "model.safetensors holds a pointer of Git LFS, not the weights; `git lfs pull` in its folder",
    ),
    "shortened shard": (llm(halve("model-*"), "60KB"), " is shortened: "),
    "lost shards": (llm(without("model-00002*"), "60KB"), "1 of 4 shards that "),
    "lost tensor": (llm(lost_tensor, "60KB"), "names 1 tensors that no shard holds, such as model-"),
    "bin": (llm(bin_only), "holds weights in .bin files alone"),
    "no weights": (llm(without("model.safetensors")), "holds no weights: "),
    "no config": (llm(without("config.json")), "has no config.json; give a folder in save_pretrained format"),
    "config": (llm(written("config.json", "{")), "config.json cannot be read as JSON"),
    "adapter": (llm(adapter), "is a PEFT adapter of some/base, no LLM; merge it"),
    "no tokenizer": (llm(without("tokenizer*")), "has no tokenizer (tokenizer.json, "),
    "no template": (llm(without("chat_template*")), "has no chat template: "),
    "broken template": (llm(written("chat_template.jinja", "{% for %}")), "chat template"),
    "silent template": (
        llm(written("chat_template.jinja", "{% for m in messages %}{{ m.content }}\n{% endfor %}")),
        "ends the assistant's turn with no special token",
    ),
    "small vocabulary": (llm(config(vocab_size=300)), "tokens, the model 300 embeddings; use the tokenizer"),
    "few positions": (llm(config(max_position_embeddings=64)), "found 128 tokens, but lm has 64 positions"),
    "t5": (llm(t5), 'holds a model of type "t5", which is no causal LM of the installed transformers'),
    "own code": (
        llm(config(model_type="mine", auto_map={"AutoModelForCausalLM": "modeling.Mine"})),
        "needs code of its own (auto_map in config.json), and mmllm runs none",
    ),
}
"""Damage -> (maker of a folder, what is said)."""


@pytest.mark.parametrize("name", LLMS)
def test_a_damaged_llm_is_seen_unloaded(name: str, checked: Checked) -> None:
    make, said = LLMS[name]
    make(checked.folder)
    sentence = checked.sentence("llm.path=lm", "llm.context=128")
    assert said in sentence and ": llm." in sentence
    with pytest.raises(Exception):  # noqa: B017 - whatever it is, the folder cannot be used
        loaded = CausalLM.load(str(checked.folder / "lm"), "float32", 128)
        Prompter(loaded.tokenizer, ["image"])


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_right(family: str, checked: Checked) -> None:
    folder = tiny_llm_folder(checked.folder, family)
    assert checked(f"llm.path={folder.name}", "llm.context=256") == 0, checked.err
    assert checked.err == ""
    assert "has 256 positions" in checked.sentence(f"llm.path={folder.name}", "llm.context=257")


def test_shards_that_are_all_there(checked: Checked) -> None:
    llm(shards="60KB")(checked.folder)
    assert checked("llm.path=lm", "llm.context=128") == 0
    assert len(list((checked.folder / "lm").glob("model-*.safetensors"))) > 1


def test_a_text_model_inside_a_multimodal_one_is_measured(checked: Checked) -> None:
    llm(config(model_type="llava", text_config={"vocab_size": 300, "max_position_embeddings": 64}))(checked.folder)
    assert checked("llm.path=lm", "llm.context=128") == 2
    assert "the model 300 embeddings" in checked.err and "lm has 64 positions" in checked.err


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.jinja")), ids=lambda file: file.stem)
def test_templates_are_tried_as_training_uses_them(template: Path, tmp_path: Path) -> None:
    """Without torch and transformers' tokenizer: the same verdict as with them."""
    tokenizer = tiny_tokenizer()
    text = template.read_text()
    ends = [
        end for end in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>", "<|end|>", "<|return|>") if end in text
    ]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *ends]})
    tokenizer.chat_template = text
    tokenizer.save_pretrained(tmp_path)
    try:
        Prompter(tokenizer, [])
        right = True
    except Exception:
        right = False
    assert (next(template_problems(TokenizerFiles(tmp_path)), None) is None) == right


def test_tokens_are_counted_as_transformers_does(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(tmp_path)
    assert len(TokenizerFiles(tmp_path)) == len(tokenizer)


@pytest.fixture
def vit(checked: Checked) -> Path:
    """A tiny vision tower with its preprocessing."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=28, patch_size=14)).save_pretrained(checked.folder / "vit")
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28).save_pretrained(checked.folder / "vit")
    checked.change(
        "{type: open_clip, model: data/mini/clip, layers: [-1]}", "{type: hf_vision, model: vit, layers: [-1]}"
    )
    return checked.folder / "vit"


def test_an_encoder_is_right(vit: Path, checked: Checked) -> None:
    assert checked() == 0
    assert "encoders.image: clip_vision_model, 2 blocks\n" in checked.out
    assert HfVisionEncoder(model="vit", layers=[-1]).n_blocks == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("preprocessor_config.json"), "encoders.image.model: vit has no preprocessor_config.json, so how its"),
        (without("config.json"), "encoders.image.model: vit has no config.json."),
        (halve("model.safetensors"), "encoders.image.model: vit/model.safetensors is shortened: "),
    ],
)
def test_an_encoder_that_lacks_something(
    change: Callable[[Path], None], said: str, vit: Path, checked: Checked
) -> None:
    change(vit)
    assert said in checked.sentence()
    with pytest.raises(Exception):  # noqa: B017
        HfVisionEncoder(model="vit", layers=[-1])


def test_layers_that_an_encoder_has_not(vit: Path, checked: Checked) -> None:
    said = checked.sentence("encoders.image.layers=[1, 4]")
    assert said.endswith("layers: found 4, and the model has 2 blocks: known are 0 (embeddings) to 2, or -3 to -1.")


def test_an_encoder_inside_another_has_its_place(vit: Path, checked: Checked) -> None:
    checked.change(
        "{type: hf_vision, model: vit, layers: [-1]}", "{type: frames, image: {type: hf_vision, model: ./vat}}"
    )
    said = checked.sentence()
    assert said == 'my.yaml:3: encoders.image.image.model: there is no file or folder "./vat"; did you mean "vit"?'


def test_names_and_tags_of_open_clip(checked: Checked) -> None:
    said = checked.sentence("encoders.image={type: open_clip, model: ViT-L-14-366, pretrained: openai}")
    assert 'encoders.image.model: "ViT-L-14-366" is neither a folder here nor a model name of open_clip' in said
    assert said.endswith('; did you mean "ViT-L-14-336"?')
    said = checked.sentence("encoders.image={type: open_clip, model: ViT-L-14-336, pretrained: opnai}")
    assert said.endswith('found "opnai"; weights of ViT-L-14-336 in open_clip: openai; did you mean "openai"?')
    assert checked("encoders.image={type: open_clip, model: ViT-L-14-336, pretrained: openai}") == 0
    assert "the weights of ViT-L-14-336 (openai) are not in the hub's cache and will be downloaded." in checked.err
    said = checked.sentence("encoders.image={type: open_clip, model: ViT-L-14, pretrained: no.safetensors}")
    assert 'encoders.image.pretrained: there is no file or folder "no.safetensors"' in said


def test_open_clips_tables_are_those_of_the_library() -> None:
    import open_clip

    from mmllm.checks.configs import open_clip_models, open_clip_tags

    assert open_clip_models() == set(open_clip.list_models())
    for model, tags in open_clip_tags().items():
        assert sorted(tags) == sorted(open_clip.list_pretrained_tags_by_model(model))


def test_transformers_tables_are_those_of_the_library() -> None:
    from transformers.models.auto import modeling_auto

    from mmllm.checks.configs import llm_types

    assert llm_types()[0] == set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert llm_types()[1] >= set(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


@pytest.mark.parametrize("name", CONFIGS)
def test_published_multimodal_models_are_right(name: str, checked: Checked) -> None:
    """As the LLM: its text model is what is measured."""
    vlm_folder(name, checked.folder / "vlm", max_shard_size="40KB")
    assert checked("llm.path=vlm", "llm.context=128") == 0, checked.err
    assert checked.err == ""
    assert "has 128 positions" in checked.sentence("llm.path=vlm", "llm.context=129")


@pytest.mark.parametrize("name", ["Llava", "Qwen2Audio", "SmolVLM"])
def test_towers_of_multimodal_models(name: str, checked: Checked) -> None:
    vlm_folder(name, checked.folder / "vlm")
    kind = "hf_audio" if name == "Qwen2Audio" else "hf_vision"
    checked.change(
        "{type: open_clip, model: data/mini/clip, layers: [-1]}", f"{{type: {kind}, model: vlm, layers: [-1]}}"
    )
    assert checked() == 0, checked.err
    assert ", 2 blocks\n" in checked.out
    assert "the model has 2 blocks" in checked.sentence("encoders.image.layers=[final, 3]")


def test_a_gguf_file(checked: Checked) -> None:
    write_gguf(checked.folder / "tiny.gguf", tiny_model("llama"), tiny_tokenizer())
    assert checked("llm.path=tiny.gguf", "llm.context=128") == 0
    assert "llm.path: tiny.gguf is in GGUF; its weights, tokenizer and template are not tested" in checked.err
    (checked.folder / "tiny.gguf").write_bytes(b"GGU")
    assert checked.sentence("llm.path=tiny.gguf").endswith("tiny.gguf is no GGUF file; download it again.")


def test_a_given_template(checked: Checked) -> None:
    llm(without("chat_template*"))(checked.folder)
    assert checked("llm.path=lm", "llm.context=128", "llm.template=chatml") == 0
    (checked.folder / "mine.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    said = checked.sentence("llm.path=lm", "llm.context=128", "llm.template=mine.jinja")
    assert ": llm.template: the tokenizer's chat template ends the assistant's turn with no special token" in said
    said = checked.sentence("llm.path=lm", "llm.context=128", "llm.template=min.jinja")
    assert 'llm.template: there is no file or folder "min.jinja"; did you mean "mine.jinja"?' in said

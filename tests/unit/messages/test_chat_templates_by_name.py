"""``llm: {template: ...}``: models without a chat template of their own can be trained."""

from __future__ import annotations

import logging

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mmllm.errors import MmllmError
from mmllm.llms.causal_lm import CausalLM
from mmllm.messages.chat_templates import set_template
from mmllm.messages.tokenize import Prompt, Prompter
from mmllm.testing.tiny.llms import CORPUS, tiny_llm_folder, tiny_model, tiny_tokenizer
from mmllm.types import Message, Sample

TALK = (Message("system", "Be brief."), Message("user", "How many?"), Message("assistant", "Two."),
        Message("user", "Why?"), Message("assistant", "So."))  # fmt: skip


def base_tokenizer(*special: str, begin: bool = False, end: bool = True) -> PreTrainedTokenizerFast:
    """A base model's tokenizer: ``<s>``, ``</s>`` and no template; ``special`` are further control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokens = ["<s>", "</s>", *special]
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=380, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False),
    )
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    ends = {"eos_token": "</s>"} if end else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", extra_special_tokens=list(special), **ends
    )


def trained(tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    """(the whole conversation, what of it is learned)."""
    prompt: Prompt = Prompter(tokenizer, []).tokenize_for_training(Sample("row", TALK, {}))
    return tokenizer.decode(prompt.ids), tokenizer.decode([label for label in prompt.labels if label >= 0])


CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\nTwo."
    "<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n"
)


def test_chatml_on_a_tokenizer_that_has_its_tokens(caplog) -> None:
    tokenizer = base_tokenizer("<|im_start|>", "<|im_end|>")
    with caplog.at_level(logging.WARNING):
        set_template(tokenizer, "chatml")
    assert not caplog.records
    assert trained(tokenizer) == (CHATML, "Two.<|im_end|>So.<|im_end|>")


@pytest.mark.parametrize("begin", [False, True])
def test_chatml_without_its_tokens_ends_turns_with_eos_and_says_so(begin, caplog) -> None:
    """A model that wants <s> before every text gets it."""
    tokenizer = base_tokenizer(begin=begin)
    with caplog.at_level(logging.WARNING):
        set_template(tokenizer, "chatml")
    assert "</s> ends a turn, and <|im_start|> is written in several ordinary tokens" in caplog.text
    whole, learned = trained(tokenizer)
    assert whole == ("<s>" if begin else "") + CHATML.replace("<|im_end|>", "</s>")
    assert learned == "Two.</s>So.</s>"
    assert Prompter(tokenizer, []).end_ids == (tokenizer.eos_token_id,)


def test_llama3() -> None:
    tokenizer = base_tokenizer("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", begin=True)
    set_template(tokenizer, "llama3")
    whole, learned = trained(tokenizer)
    assert whole.startswith(
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
    )
    assert learned == "Two.<|eot_id|>So.<|eot_id|>"


def test_a_jinja_file(tmp_path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text(
        "{% for m in messages %}{{ m['role'] + '>' + m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant>' }}{% endif %}"
    )
    tokenizer = base_tokenizer()
    set_template(tokenizer, str(file))
    whole = "system>Be brief.</s>user>How many?</s>assistant>Two.</s>user>Why?</s>assistant>So.</s>"
    assert trained(tokenizer) == (whole, "Two.</s>So.</s>")


@pytest.mark.parametrize(
    ("template", "text", "sentence"),
    [
        ("llama3", None, r"writes <\|end_header_id\|>, <\|eot_id\|>, <\|start_header_id\|>, which the tokenizer"),
        ("chat-ml", None, "'chat-ml' is neither chatml nor llama3 nor a text file"),
        ("x.jinja", "", "is empty"),
        ("x.jinja", "{% for m in messages %}{{ m['content'] ", "cannot be used: the chat template is no jinja: line 1"),
        ("x.jinja", "{% for m in messages %}{{ m['content'] }}{% endfor %}", "the assistant's turn with no special"),
        ("x.jinja", "{{ messages[0]['content'] }}", "does not show the assistant's messages"),
        ("x.jinja", "{% for m in messages %}{{ '<|turn|>' + m['content'] + eos_token }}{% endfor %}",
         r"writes <\|turn\|>, which the tokenizer"),
        ("x.jinja", "{% for m in messages %}{{ m['role'] + m['content'] + eos_token }}{% endfor %}"
         "{% if add_generation_prompt %}{{ 'go' }}{% endif %}", "is not how it opens the assistant's turn"),
        ("x.jinja", "{{ raise_exception('no') }}", "cannot be used: .* no"),
        ("x.jinja", "{{ messages.nothing.at_all }}", "cannot be used"),
    ],
)  # fmt: skip
def test_templates_that_do_not_fit(template, text, sentence, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / template).write_text(text)
    with pytest.raises(MmllmError, match=f"llm.template: .*{sentence}"):
        set_template(base_tokenizer(), template)


def test_chatml_needs_something_that_ends_a_turn() -> None:
    with pytest.raises(MmllmError, match=r"has neither <\|im_end\|> nor an eos_token"):
        set_template(base_tokenizer(end=False), "chatml")


def test_a_base_model_of_a_recipe(tmp_path) -> None:
    """Without the word the sentence says what to write; with it the model trains; another template replaces one."""
    tokenizer = base_tokenizer()
    tiny_model().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(MmllmError, match=r"has no chat template: give it one with llm: \{template: chatml\}"):
        Prompter(CausalLM.load(str(tmp_path), "float32").tokenizer, [])
    found = CausalLM.load(str(tmp_path), "float32", template="chatml").tokenizer
    assert trained(found)[1] == "Two.</s>So.</s>"
    folder = tiny_llm_folder(tmp_path)
    assert tiny_tokenizer().chat_template != CausalLM.load(str(folder), template="chatml").tokenizer.chat_template


def test_a_template_file_lies_beside_its_recipe(tmp_path, monkeypatch) -> None:
    """And what it says counts for a finished run by its digest, not by where it lies."""
    from mmllm.recipe.load import load_recipe
    from mmllm.recipe.shaping import shaping

    home = tmp_path / "home"
    home.mkdir()
    (home / "mine.jinja").write_text("x")
    text = (
        "llm: {path: some/llm, template: mine.jinja}\nconnectors:\n  inner: {type: lora}\n"
        "data:\n  rows: {type: chat_jsonl, path: rows.jsonl}\n"
        "stages:\n  a: {train: {connectors.inner: 1.0e-3}, data: {rows: 1.0}, steps: 1, batch: 1}\n"
    )
    (home / "r.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(home / "r.yaml")
    assert recipe.llm.template == "home/mine.jinja"
    assert "template" not in shaping(recipe)["llm"]
    (home / "r.yaml").write_text(text.replace("mine.jinja", "chatml"))
    assert load_recipe(home / "r.yaml").llm.template == "chatml"

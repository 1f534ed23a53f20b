"""The miniature LM's tokenizer: byte-level BPE in which every word of the world is one token, and its chat template."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mmllm.errors import MmllmError
from mmllm.miniature.world.words import every_word

PAD, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
CONTEXT = 2048
# One place (a1), one word, two digits or one sign at a time, each with the space before it.
PIECES = r" ?[a-z][0-9](?![A-Za-z0-9])| ?[A-Za-z]+| ?[0-9]{1,2}| ?[^\sA-Za-z0-9]|\s"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "<|assistant|>{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{%- else -%}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Trains the BPE on the list of words (with and without the space before) and checks that each is one token."""
    raw = Tokenizer(models.BPE(unk_token=None, byte_fallback=False))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    # more than it needs: merging ends by itself when every word is one token
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        special_tokens=[PAD, END, USER, ASSISTANT, SYSTEM],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    forms = [form for word in every_word() for form in (word, " " + word)]
    raw.train_from_iterator(forms, trainer)
    raw.add_special_tokens([AddedToken(token, special=True) for token in (PAD, END, USER, ASSISTANT, SYSTEM)])
    split = [form for form in forms if len(raw.encode(form).ids) != 1]
    if split:
        raise MmllmError(f"the miniature tokenizer splits {split[:5]} into several tokens; give it a larger vocabulary")
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )

"""The written files in llama.cpp itself: a process of its own, which a fault in native code ends without ending ours.

Use: ``python -m mmllm.exporting.gguf.llama_cpp TASK RESULT``. ``TASK`` is a JSON file, see :class:`Task`; ``RESULT``
an ``.npz`` with what llama.cpp made of it. Everything is computed in float32 on the CPU, as far as llama.cpp does: its
GELU is a table in float16.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from mmllm.exporting.gguf.declarations import F32, NO_FLASH_ATTENTION, TEXT, open_library

ERROR = 4
"""Level of llama.cpp's log."""
SEQUENCE = 0
"""The one sequence that everything is computed in."""


@dataclass(frozen=True)
class Picture:
    """A conversation about one picture."""

    name: str
    pixels: str
    """File of ``numpy.save`` with uint8[H, W, 3]."""
    prompt: str
    """With ``<__media__>`` where the picture stands."""


@dataclass(frozen=True)
class Task:
    """What llama.cpp is to do."""

    model: str
    """File of the LLM."""
    texts: list[str]
    """To be tokenised: ``ids/N``."""
    prompt: str
    """A conversation without pictures: its ``prompt/ids``, ``prompt/logits`` float32[S, V] and ``prompt/answer``."""
    new: int
    """Tokens of an answer."""
    context: int
    threads: int
    mmproj: str = ""
    pictures: list[Picture] = field(default_factory=list)
    """Of each ``NAME/ids``, -1 at the places of its tokens, ``NAME/tokens`` float32[T, D], ``NAME/logits`` float32[V]
    behind the prompt and ``NAME/answer``."""


class Runner:
    """llama.cpp with a model, and a projector where there is one."""

    def __init__(self, task: Task) -> None:
        self.ffi, self.lib = open_library()
        self.errors: list[str] = []
        self._log = self.ffi.callback("log_callback", self._note)
        for listener in (self.lib.llama_log_set, self.lib.mtmd_log_set, self.lib.mtmd_helper_log_set):
            listener(self._log, self.ffi.NULL)
        self.lib.llama_backend_init()
        words = self.lib.llama_model_default_params()
        words.n_gpu_layers = 0
        self.model = self._made(self.lib.llama_model_load_from_file(task.model.encode(), words), "load the LLM")
        self.vocabulary = self.lib.llama_model_get_vocab(self.model)
        self.width = self.lib.llama_vocab_n_tokens(self.vocabulary)
        self.context = self._made(self.lib.llama_init_from_model(self.model, self._words(task)), "run the LLM")
        self.size = task.context
        self.media = self._media(task) if task.mmproj else None

    def _note(self, level: int, text: Any, _: Any) -> None:
        if level == ERROR:
            self.errors.append(self.ffi.string(text).decode("utf-8", "replace").strip())

    def _words(self, task: Task) -> Any:
        words = self.lib.llama_context_default_params()
        words.n_ctx = words.n_batch = words.n_ubatch = task.context
        words.n_threads = words.n_threads_batch = task.threads
        words.type_k = words.type_v = F32
        words.flash_attn_type = NO_FLASH_ATTENTION
        words.swa_full = True
        return words

    def _media(self, task: Task) -> Any:
        words = self.lib.mtmd_context_params_default()
        words.use_gpu, words.print_timings, words.warmup = False, False, False
        words.n_threads = task.threads
        words.flash_attn_type = NO_FLASH_ATTENTION
        found = self.lib.mtmd_init_from_file(task.mmproj.encode(), self.model, words)
        return self._made(found, "load the projector")

    def _made(self, found: Any, what: str) -> Any:
        if found == self.ffi.NULL:
            raise RuntimeError(f"it cannot {what}: {(self.errors or ['it does not say why'])[-1]}")
        return found

    def ids(self, text: str, special: bool) -> list[int]:
        """Ids of a text; ``special``: with what belongs in front of it, and with control tokens that it writes out."""
        given = text.encode()
        room = self.ffi.new("llama_token[]", len(given) + 8)
        count = self.lib.llama_tokenize(self.vocabulary, given, len(given), room, len(room), special, special)
        if count < 0:
            raise RuntimeError(f"it cannot tokenise {text!r}")
        return list(room[0:count])

    def clear(self) -> None:
        """Forget what was read."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def read(self, ids: Sequence[int], start: int = 0) -> numpy.ndarray:
        """Logits float32[S, V] behind every one of these ids, read from position ``start`` on."""
        batch = self.lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for n, number in enumerate(ids):
            batch.token[n], batch.pos[n], batch.n_seq_id[n] = number, start + n, 1
            batch.seq_id[n][0], batch.logits[n] = SEQUENCE, 1
        try:
            if self.lib.llama_decode(self.context, batch):
                raise RuntimeError(f"it cannot read {len(ids)} tokens: {(self.errors or ['no reason given'])[-1]}")
        finally:
            self.lib.llama_batch_free(batch)
        return numpy.stack([self.logits(n) for n in range(len(ids))])

    def logits(self, index: int) -> numpy.ndarray:
        """Logits float32[V] of a position of what was read last; -1: of its last."""
        found = self.lib.llama_get_logits_ith(self.context, index)
        return self._array(found, self.width)

    def _array(self, values: Any, count: int) -> numpy.ndarray:
        return numpy.frombuffer(self.ffi.buffer(values, 4 * count), numpy.float32).copy()

    def answer(self, logits: numpy.ndarray, position: int, new: int) -> list[int]:
        """The likeliest tokens, one after the other, until it ends or there are ``new``."""
        found: list[int] = []
        while len(found) < new:
            number = int(logits.argmax())
            if self.lib.llama_vocab_is_eog(self.vocabulary, number):
                break
            found.append(number)
            logits = self.read([number], position)[-1]
            position += 1
        return found

    def text(self, task: Task) -> Iterator[tuple[str, numpy.ndarray]]:
        """What it makes of texts."""
        for n, text in enumerate(task.texts):
            yield f"ids/{n}", numpy.array(self.ids(text, special=False), numpy.int64)
        ids = self.ids(task.prompt, special=True)
        yield "prompt/ids", numpy.array(ids, numpy.int64)
        self.clear()
        logits = self.read(ids)
        yield "prompt/logits", logits
        yield "prompt/answer", numpy.array(self.answer(logits[-1], len(ids), task.new), numpy.int64)

    def picture(self, picture: Picture, new: int) -> Iterator[tuple[str, numpy.ndarray]]:
        """What it makes of a picture and the conversation about it."""
        pixels = numpy.ascontiguousarray(numpy.load(picture.pixels))
        height, width, _ = pixels.shape
        bitmap = self.lib.mtmd_bitmap_init(width, height, self.ffi.from_buffer("unsigned char[]", pixels))
        given = picture.prompt.encode()
        text = self.ffi.new("struct mtmd_input_text *")
        kept = self.ffi.new("char[]", given)
        text.text, text.text_len, text.add_special, text.parse_special = kept, len(given), True, True
        chunks = self.lib.mtmd_input_chunks_init()
        if self.lib.mtmd_tokenize(self.media, chunks, text, self.ffi.new("void *[]", [bitmap]), 1):
            raise RuntimeError(f"it cannot take the picture: {(self.errors or ['no reason given'])[-1]}")
        yield from self._chunks(picture.name, chunks)
        self.clear()
        end = self.ffi.new("llama_pos *")
        if self.lib.mtmd_helper_eval_chunks(self.media, self.context, chunks, 0, SEQUENCE, self.size, True, end):
            raise RuntimeError(f"it cannot read the conversation: {(self.errors or ['no reason given'])[-1]}")
        logits = self.logits(-1)
        yield f"{picture.name}/logits", logits
        yield f"{picture.name}/answer", numpy.array(self.answer(logits, end[0], new), numpy.int64)

    def _chunks(self, name: str, chunks: Any) -> Iterator[tuple[str, numpy.ndarray]]:
        ids: list[int] = []
        tokens: list[numpy.ndarray] = []
        for n in range(self.lib.mtmd_input_chunks_size(chunks)):
            chunk = self.lib.mtmd_input_chunks_get(chunks, n)
            count = self.lib.mtmd_input_chunk_get_n_tokens(chunk)
            if self.lib.mtmd_input_chunk_get_type(chunk) == TEXT:
                found = self.lib.mtmd_input_chunk_get_tokens_text(chunk, self.ffi.new("size_t *"))
                ids += list(found[0:count])
                continue
            ids += [-1] * count
            if self.lib.mtmd_encode_chunk(self.media, chunk):
                raise RuntimeError(f"it cannot encode the picture: {(self.errors or ['no reason given'])[-1]}")
            width = self.lib.llama_model_n_embd_inp(self.model)
            tokens.append(self._array(self.lib.mtmd_get_output_embd(self.media), count * width).reshape(count, -1))
        yield f"{name}/ids", numpy.array(ids, numpy.int64)
        yield f"{name}/tokens", numpy.concatenate(tokens)


def main() -> None:
    """Carry out a task; what goes wrong is the last line of stderr."""
    with open(sys.argv[1], encoding="utf-8") as file:
        told = json.load(file)
    task = Task(**{**told, "pictures": [Picture(**one) for one in told["pictures"]]})
    try:
        runner = Runner(task)
        found = dict(runner.text(task))
        for picture in task.pictures:
            found.update(runner.picture(picture, task.new))
    except RuntimeError as error:
        sys.exit(str(error))
    numpy.savez(sys.argv[2], allow_pickle=False, **found)


if __name__ == "__main__":
    main()

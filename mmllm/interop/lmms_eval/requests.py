"""What lmms-eval hands to a model, as this package reads it: messages in parts, and words of how to generate.

Nothing here imports lmms-eval; ``chat_model.py`` does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mmllm.errors import MmllmError
from mmllm.generation.sampling import Sampling
from mmllm.messages.placeholders import escape
from mmllm.modalities import modality_of

BOUNDS = ("start_time", "end_time")
"""Words of a part that mean a piece of a clip."""
OF_OTHERS = frozenset({"image_aspect_ratio", "max_num_frames", "use_cache"})
"""Words of its tasks that are other models' settings: here the recipe says how media are read."""
KNOWN = "max_new_tokens, max_gen_toks, until, temperature, top_p, do_sample, num_beams, seed"


def messages_of(given: Iterable[Mapping[str, Any]], keys: Collection[str]) -> list[dict[str, Any]]:
    """Messages of a task as ``Model.chat`` takes them: media as parts, texts that show no placeholder of ``keys``.

    Raises:
        MmllmError: a part of a clip alone, or a sound of no form that is known.
    """
    # what the assistant says is never read as a placeholder
    named = {"assistant": ()}
    return [{**one, "content": _content(one["content"], named.get(one["role"], keys))} for one in given]


def asked(to_messages: Any, doc: Any) -> Any:
    """What a task asks about a row: by its own function for models that chat, or of what it shows and its text.

    ``to_messages``: lmms-eval's, a method of the task.
    """
    task = getattr(to_messages, "__self__", None)
    if task is None or task.config.doc_to_messages is not None or task.config.doc_to_visual is None:
        return to_messages(doc)
    return question(task.doc_to_visual(doc) or (), task.doc_to_text(doc))


def question(visuals: Iterable[Any], text: str) -> list[dict[str, Any]]:
    """Messages of a task that names what it shows and what it asks, as lmms-eval builds them for models that chat.

    Its own (0.7.3) calls a sound as datasets decode it a video, and knows no decoder of sounds.
    """
    parts = [_typed(visual) for visual in visuals]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def _typed(visual: Any) -> dict[str, Any]:
    """A part for what a task shows: a picture, a sound, a path, or a dict that says what it is."""
    words = visual if isinstance(visual, Mapping) else {}
    if "type" in words:
        cut = {bound: words.get(f"video_{bound.partition('_')[0]}") for bound in BOUNDS}
        return {"type": words["type"], "url": words.get("url") or words.get("path") or visual, **cut}
    if "array" in words or hasattr(visual, "get_all_samples"):
        return {"type": "audio", "url": visual}
    if words:
        place = str(words.get("path") or words.get("url") or "")
        kind = modality_of(place) or "video"
        return {"type": kind, "url": words["bytes"] if words.get("bytes") is not None else place}
    if isinstance(visual, str):
        return {"type": modality_of(visual) or "video", "url": visual}
    return {"type": "image", "url": visual}


def _content(content: str | Sequence[Mapping[str, Any]], keys: Collection[str]) -> Any:
    if isinstance(content, str):
        return escape(content, keys)
    return [_part(part, keys) for part in content]


def _part(part: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    kind = part["type"]
    if kind == "text":
        # a question that shows "<image>" means the word: lmms-eval's media are parts
        return {"type": "text", "text": escape(part["text"], keys)}
    cut = next((word for word in BOUNDS if part.get(word) is not None), None)
    if cut is not None:
        raise MmllmError(
            f"lmms-eval: a {kind} is to be read with {cut}, and clips are read whole here; cut the file first (ffmpeg "
            "-ss START -to END)"
        )
    item = part["url"]
    if kind == "audio":
        item = _sound(item)
    return {"type": f"{kind}_url", f"{kind}_url": {"url": item}}


def _sound(item: Any) -> Any:
    """A sound as datasets decode it, a dict or their decoder, as (samples, samples per second); files as they are."""
    if isinstance(item, Mapping) and "array" in item:
        return item["array"], int(item["sampling_rate"])
    if isinstance(item, Mapping):
        return item["bytes"] if item.get("bytes") is not None else item["path"]
    if hasattr(item, "get_all_samples"):  # torchcodec's decoder, which datasets 4 and later give: float[channels, n]
        samples = item.get_all_samples()
        return samples.data.numpy().T, int(samples.sample_rate)
    return item


def sampling_of(words: Mapping[str, Any], limit: int) -> Sampling:
    """How an answer is generated; ``limit``: its tokens where the task does not say.

    Raises:
        MmllmError: a word that is unknown here or cannot be done.
    """
    left = {word: value for word, value in words.items() if value is not None and word not in OF_OTHERS}
    until = left.pop("until", ())
    longest = left.pop("max_gen_toks", limit)
    draws = left.pop("do_sample", None)
    temperature = float(left.pop("temperature", 1.0 if draws else 0.0))
    beams = left.pop("num_beams", 1)
    sampling = Sampling(
        max_new_tokens=int(left.pop("max_new_tokens", longest)),
        temperature=0.0 if draws is False else temperature,
        top_p=float(left.pop("top_p", 1.0)) or 1.0,  # some tasks write 0 and mean greedy
        seed=left.pop("seed", None),
        # an empty text would end every answer before it begins
        stop=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
    )
    if beams != 1:
        raise MmllmError(f"lmms-eval: num_beams is {beams}, and answers are not searched with beams here; say 1")
    if left:
        raise MmllmError(f"lmms-eval: {next(iter(left))} is no way of generating that is known here; known: {KNOWN}")
    return sampling

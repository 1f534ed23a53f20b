"""Reading beside what a user would write: frames by decord; conversations by one render and a fast tokenizer."""

from __future__ import annotations

import atexit
import json
import random
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.speed.measure import Comparison
from benchmarks.speed.parts import made
from mmllm.batches.sample import plan
from mmllm.datasets.chat import Chat
from mmllm.messages.tokenize import Prompter
from mmllm.processors.decoding.frame_choice import sampled
from mmllm.processors.video import VideoReading

FRAMES, TAKEN, REPEATS = 600, 8, 5
"""Of a clip, of one reading, readings of a round: the system counts a child's time in hundredths of a second."""
CONVERSATIONS, TURNS = 200, 5


def video_gop30() -> Comparison:
    """Thirty frames between two key frames, as cameras write them."""
    return _video(30)


def video_gop250() -> Comparison:
    """250 frames, x264's own choice."""
    return _video(250)


def _video(distance: int) -> Comparison:
    import decord

    folder = Path(tempfile.mkdtemp(prefix="speed_video_"))
    path = folder / "clip.mp4"
    _clip(path, distance)
    wanted = sampled(list(range(FRAMES)), TAKEN, None)
    reading = VideoReading(frames=TAKEN, fps=None, backend="pyav", timeout=60, max_pixels=10_000_000, max_seconds=3600)
    atexit.register(reading.close)

    def baseline() -> Any:
        for _ in range(REPEATS):
            frames = decord.VideoReader(str(path), num_threads=1).get_batch(wanted).asnumpy()
        return frames

    def ours() -> Any:
        for _ in range(REPEATS):
            frames = reading.read(path).frames
        return frames

    def check(first: Any, second: Any) -> None:
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))

    what = f"{TAKEN} of {FRAMES} frames, 640 x 360, {distance} between key frames, in a process that can be killed"
    return Comparison(baseline, ours, check, what, "decord's get_batch in this process")


def _clip(path: Path, distance: int) -> None:
    """A picture that moves on by two columns a frame, by x264."""
    import av

    noise = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(noise).resize((640, 360)))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": str(distance), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 2 * number, 1), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def tiles_12() -> Comparison:
    """A picture of 12 tiles and the view of all of it: decoded, cut by LLaVA-NeXT's processor, through the tower."""
    import torch
    import transformers

    from mmllm.encoders.image.tiles import TilesEncoder

    parts, folder = made(32_000), Path(tempfile.mkdtemp(prefix="speed_tiles_"))
    shutil.copytree(parts / "vit", folder / "vit")
    resolutions, size = [[672, 896]], {"height": 224, "width": 224}
    own = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 224}, crop_size=size, image_grid_pinpoints=resolutions
    )
    own.save_pretrained(folder / "vit")
    image: Any = {"type": "hf_vision", "model": str(folder / "vit"), "layers": [-2], "fit": "own"}
    encoder = TilesEncoder(image=image, rule="resolutions", resolutions=resolutions)
    picture = parts / "img" / "0.jpg"
    tower: Any = encoder.image

    @torch.inference_mode()
    def baseline() -> Any:
        pixels = own(Image.open(picture).convert("RGB"), return_tensors="pt")["pixel_values"][0]
        return tower.vision(pixels, output_hidden_states=True).hidden_states[-2][:, 1:].flatten(0, 1)

    @torch.inference_mode()
    def ours() -> Any:
        processor = encoder.processor
        return encoder(**processor.collate([processor.read(picture)])).concatenated()[0]

    def check(first: Any, second: Any) -> None:
        torch.testing.assert_close(second, first, atol=1e-5, rtol=1e-5)

    what = "a picture of 12 tiles and the view of all of it: decoded, cut, a hidden layer of each"
    return Comparison(baseline, ours, check, what, "LlavaNextImageProcessor and the tower with all hidden states")


def plan_tokens() -> Comparison:
    """Conversations of five turns to ids, with labels and places of media found; the baseline finds neither."""
    from transformers import AutoTokenizer

    folder = Path(tempfile.mkdtemp(prefix="speed_tokens_"))
    tokenizer = AutoTokenizer.from_pretrained(made(32_000) / "llm_32000")
    draw = random.Random(0)
    rows = [json.dumps({"messages": _turns(draw), "image": ["one.jpg"]}) for _ in range(CONVERSATIONS)]
    (folder / "chat.jsonl").write_text("\n".join(rows) + "\n")
    data = Chat(str(folder / "chat.jsonl"), str(folder))
    samples = [data[i] for i in range(len(data))]
    messages = [json.loads(row)["messages"] for row in rows]
    prompter = Prompter(tokenizer, ["image"])
    place = tokenizer("<image>", add_special_tokens=False).input_ids

    def baseline() -> list[list[int]]:
        texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in messages]
        found: list[list[int]] = tokenizer(texts, add_special_tokens=False).input_ids
        return found

    def ours() -> list[list[int]]:
        return [plan(sample, prompter, {"image": _One()}, 1 << 20, train=True).prompt.ids for sample in samples]

    def check(first: list[list[int]], second: list[list[int]]) -> None:
        """Equal but for the placeholder, which is one id here and text there."""
        own = prompter.tokenize_for_training(samples[0]).places[0][0]
        for theirs, mine in zip(first, second, strict=True):
            assert mine[:own] + place + mine[own + 1 :] == theirs, (mine[: own + 9], theirs[: own + 12])

    what = f"{CONVERSATIONS} conversations of {TURNS} turns: ids, labels, places of media"
    return Comparison(baseline, ours, check, what, "one render of the chat template and the fast tokenizer: ids")


class _One:
    """An input whose items take one place."""

    minds_others = False
    questions = None

    def n_tokens(self) -> int:
        return 1


def _turns(draw: random.Random) -> list[dict[str, str]]:
    words = ("red green blue circle square above below left right many the of is what there two three").split()
    turns = []
    for number in range(TURNS):
        lead = "<image>\n" if number == 0 else ""
        turns.append({"role": "user", "content": lead + " ".join(draw.choices(words, k=9))})
        turns.append({"role": "assistant", "content": " ".join(draw.choices(words, k=16))})
    return turns

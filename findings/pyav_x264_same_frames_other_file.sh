#!/usr/bin/env bash
# The H.264 encoder inside PyAV's wheel writes the same frames to another file now and then, with one thread too.
#
# Guess: x264 is deterministic; with "threads": "1" the same frames, at the same times, are the same bytes in every process
# and on every call.
# Seen (av 18.1.0, x86-64): of 120 files of eight frames of 32 x 32 pixels, written one after the other in one process, 3 to
# 90 are another one than the most frequent, of up to thirteen kinds; what is decoded from them differs, by little. How many
# depends on what the process used memory for before. It is not the conversion of colours: the converted frames are equal.
# Where the encoder looks at no frames ahead ("x264-params": "rc-lookahead=0:mbtree=0", or the preset "ultrafast") and where
# its vector code is off ("asm=0") all files are one; without B-frames alone nearly all. Clips that are generated, hashed or
# compared to the last bit should be written so.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet av==18.1.0 numpy==2.4.6
cat > look.py <<'PY'
import hashlib
import io
import random
from collections import Counter

import av
import numpy as np

draw = np.random.default_rng(0)
moving = [np.full((32, 32, 3), 200, np.uint8) for _ in range(8)]
for number, frame in enumerate(moving):
    frame[8:20, 3 * number : 3 * number + 12] = (20, 60, 200)
noise = [draw.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(8)]


def converted(frames):
    """The planes that the encoder is given."""
    made = (av.VideoFrame.from_ndarray(one, format="rgb24").reformat(format="yuv420p") for one in frames)
    return b"".join(one.to_ndarray().tobytes() for one in made)


def written(frames, **options):
    """An mp4 file of the frames."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        settings = {"crf": "18", "preset": "veryfast", "threads": "1", **options}
        stream = container.add_stream("libx264", rate=25, options=settings)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, one in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(one, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def kinds(make, count=60):
    """How often each of the files comes; between two of them memory is used and given back, as a program does."""
    found = Counter()
    for number in range(count):
        used = [np.full(random.randrange(1, 300_000), number, np.uint8) for _ in range(random.randrange(5))]
        found[hashlib.sha256(make()).hexdigest()[:6]] += 1
        del used
    return sorted(found.values(), reverse=True)


print("av", av.__version__, "libavcodec", ".".join(map(str, av.library_versions["libavcodec"])))
seen = []
for name, frames in {"moving, 32 x 32": moving, "noise, 64 x 64": noise}.items():
    usual = kinds(lambda: written(frames), 120)
    seen.append(len(usual))
    print(f"{name}: colours {kinds(lambda: converted(frames))}, files {usual}")
    assert kinds(lambda: converted(frames)) == [60]
    for options in (
        {"x264-params": "rc-lookahead=0:mbtree=0"}, {"x264-params": "asm=0"}, {"preset": "ultrafast"}
    ):
        once = kinds(lambda: written(frames, **options), 120)
        print(f"  {options}: {once}")
        assert once == [120]
assert max(seen) > 1
PY
env/bin/python look.py

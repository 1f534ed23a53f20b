#!/usr/bin/env bash
# decord gives the frames of a small clip that is to be shown turned as pictures of four, six or twelve channels.
#
# Guess: VideoReader gives uint8[height, width, 3] for every clip, turned ones included, since it applies the rotation.
# Seen (decord 0.6.0, clips written by PyAV 18.1.0): the last axis is the length of a padded line divided by the width. A
# 64 x 48 clip has 3 channels; the same clip with a display rotation of 90 degrees comes as 64 x 48 x 4, 64 x 16 as
# 64 x 16 x 6. Bytes of neighbouring pixels fill the extra channels, so cutting the array down to three leaves a
# scrambled picture. The same clips without a rotation have three, and so have larger ones that are turned.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet decord==0.6.0 av==18.1.0 numpy==2.4.6
cat > look.py <<'PY'
import av
import decord
import numpy as np


def write(path, width, height, turned):
    """Three frames: left half red, right half blue."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2, 0] = picture[:, width // 2 :, 2] = 200
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if turned:
            stream.set_display_rotation(turned)
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


shapes = {}
for width, height in ((64, 48), (64, 16), (128, 96)):
    for turned in (0, 90):
        write("clip.mp4", width, height, turned)
        with av.open("clip.mp4") as container:
            own = next(container.decode(video=0)).to_ndarray(format="rgb24")
        assert own.shape == (height, width, 3)
        shapes[width, height, turned] = decord.VideoReader("clip.mp4")[0].asnumpy().shape
print("decord", decord.__version__, "av", av.__version__)
print("guess: three channels in each; seen (width, height, turned -> shape):", shapes)
assert shapes[64, 48, 0] == (48, 64, 3) and shapes[64, 48, 90] == (64, 48, 4)
assert shapes[64, 16, 0] == (16, 64, 3) and shapes[64, 16, 90] == (64, 16, 6)
assert shapes[128, 96, 0] == (96, 128, 3) and shapes[128, 96, 90] == (128, 96, 3)
PY
env/bin/python look.py

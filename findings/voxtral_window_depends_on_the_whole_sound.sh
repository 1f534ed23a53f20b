#!/usr/bin/env bash
# The features of a 30 s window in Voxtral depend on the loudest moment of the whole sound.
#
# Guess: Voxtral hears long sound in windows of 30 s, so the features of a window are those of its 30 s: one may cut a long
# recording oneself, send the windows as they come or keep their features, and the model sees the same.
# Seen (transformers 5.23.0, torch 2.15.0, CPU): the log-mel is computed over the whole padded sound and cut afterwards, and it
# is clipped 80 dB below the loudest bin of everything. A 45 s sound whose last 15 s are 20 dB quieter has other features in
# its second window than these 15 s alone: the padding behind them differs by 0.5 on a scale whose whole span is 2. The loud
# window agrees but for its edge. The docstring says that padding comes before the log-mel, not what follows from it.
# Windows cut before the call agree with WhisperFeatureExtractor's usual call for each of them.
# (The tokenizer is a stand-in that hands the sound over; the features take the library's own path.)
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.15.0 torchvision==0.29.2 transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
cat > look.py <<'PY'
import numpy as np
import torch
import transformers as tf
from tokenizers import Tokenizer, models

RATE = 16000


class Tokens(tf.PreTrainedTokenizerFast):
    def apply_chat_template(self, conversations, **options):
        sounds = [part["audio"] for talk in conversations for turn in talk for part in turn["content"]]
        return {"input_ids": [[1] * len(sounds)], "audio": sounds}


words = {f"<{number}>": number for number in range(32)}
tokens = Tokens(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<0>")), unk_token="<0>", pad_token="<1>")
extractor = tf.WhisperFeatureExtractor(feature_size=128)
processor = tf.VoxtralProcessor(extractor, tokens)


def features(sound):
    talk = [{"role": "user", "content": [{"type": "audio", "audio": sound}]}]
    return processor.apply_chat_template(talk)["input_features"]


noise = 0.3 * np.random.default_rng(0).standard_normal(45 * RATE).astype(np.float32)
noise[30 * RATE :] *= 0.1
whole = features(noise)
alone = torch.cat([features(noise[: 30 * RATE]), features(noise[30 * RATE :])])
apart = (whole - alone).abs()
inner = apart[0, :, :-2].max().item()
sound, padding = apart[1, :, 2:1498].max().item(), apart[1, :, 1502:].min().item()
cuts = np.split(noise, [30 * RATE])
windows = [extractor(cut, sampling_rate=RATE, return_tensors="pt")["input_features"] for cut in cuts]
usual = (torch.cat(windows) - alone).abs().max().item()
print("transformers", tf.__version__, "torch", torch.__version__)
print("windows", tuple(whole.shape), "- guess: no difference between whole and alone")
print("first window, but for its last two frames:", inner, "- at its edge:", apart[0].max().item())
print("second window: where there is sound, at most", sound, "- in its padding, at least", padding)
print("Whisper's usual call, window by window, against the windows alone:", usual)
assert whole.shape == alone.shape == (2, 128, 3000)
assert padding > 0.4 and usual < 1e-4 and inner < 1e-3
PY
OMP_NUM_THREADS=1 env/bin/python look.py

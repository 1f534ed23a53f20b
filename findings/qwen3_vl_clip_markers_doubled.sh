#!/usr/bin/env bash
# Qwen3VLProcessor: the same clip and prompt cost two tokens more in transformers 5, a second pair of markers around the clip.
#
# Guess: a prompt with a clip has the same ids in transformers 4.57, with which Qwen3-VL was released, and in 5.23: its template
# writes <|vision_start|><|video_pad|><|vision_end|>, and the processor puts one pair of markers around each step in time there.
# Seen (transformers 4.57.1 and 5.23.0): so does 4.57. 5.23 replaces the pad alone, so the template's own markers stay around
# the whole clip: <|vision_start|><0.2 seconds><|vision_start|>...<|vision_end|><|vision_end|>, which the model never read in
# training. Nothing warns, and answers are made from other ids.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > look.py <<'PY'
import numpy as np
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.video_utils import VideoMetadata

MARKS = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
vocabulary = {chr(code): code for code in range(256)}
core = Tokenizer(models.WordLevel({"<unk>": 256, "<pad>": 257, **vocabulary}, unk_token="<unk>"))
core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
core.save("tokenizer.json")
kind = tf.Qwen2TokenizerFast if tf.__version__ < "5" else tf.PreTrainedTokenizerFast
tokens = kind(tokenizer_file="tokenizer.json", unk_token="<unk>", pad_token="<pad>")
tokens.add_special_tokens({"additional_special_tokens": MARKS})
pictures = tf.Qwen2VLImageProcessorFast() if tf.__version__ < "5" else tf.Qwen2VLImageProcessor()
clips = tf.Qwen3VLVideoProcessor(size={"shortest_edge": 4096, "longest_edge": 65536})
processor = tf.Qwen3VLProcessor(pictures, tokens, clips, chat_template="none")
frames = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
told = VideoMetadata(total_num_frames=4, fps=5.0, frames_indices=[0, 1, 2, 3], height=64, width=64, duration=0.8)
out = processor(
    text=["<|vision_start|><|video_pad|><|vision_end|>"], videos=[frames], video_metadata=[told], do_sample_frames=False,
    return_tensors="pt",
)
ids = out["input_ids"][0]
pairs = [int((ids == tokens.convert_tokens_to_ids(mark)).sum()) for mark in MARKS[2:]]
print("transformers", tf.__version__, "- steps", int(out["video_grid_thw"][0, 0]), "- markers (begin, end)", pairs)
assert pairs == ([2, 2] if tf.__version__ < "5" else [3, 3])
PY
python3 -m venv env
env/bin/pip install --quiet torch==2.15.0 torchvision==0.29.2 transformers==5.23.0 tokenizers==0.23.3 pillow==13.0.0 numpy==2.4.6 requests
env/bin/pip install --quiet --no-deps --target old transformers==4.57.1 tokenizers==0.22.1 huggingface_hub==0.36.0
export OMP_NUM_THREADS=1
PYTHONPATH=old env/bin/python look.py
env/bin/python look.py

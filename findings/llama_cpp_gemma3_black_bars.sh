#!/usr/bin/env bash
# llama.cpp puts black bars around pictures for Gemma 3, where Gemma's own processor squashes them to the square.
#
# Guess: for projector_type "gemma3" a picture is resized to the tower's square as Gemma3ImageProcessor does it, without
# keeping its shape: a white picture is white everywhere.
# Seen (xllamacpp 2026.10.11549, which is build 11549; gguf 0.19.0): its shape is kept and the rest is black, so half of the
# tokens of a picture twice as wide as high show nothing, and the tower sees shapes otherwise than in training. Nothing in the
# file says so, and no key of it asks for the other.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet numpy==2.4.6 gguf==0.19.0 cffi==2.1.1 xllamacpp==2026.10.11549
cat > look.py <<'PY'
from importlib.metadata import version

import gguf
import numpy as np
import xllamacpp.xllamacpp as extension
from cffi import FFI

W = 32  # width of tower, projector and LLM


def write(path, arch, keys, tensors):
    writer = gguf.GGUFWriter(path, arch)
    keys(writer)
    for name, value in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(value, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def text_keys(writer):
    """A Llama of one block, which is there to be loaded; nothing asks it anything."""
    writer.add_vocab_size(8)
    writer.add_context_length(64)
    writer.add_embedding_length(W)
    writer.add_block_count(1)
    writer.add_feed_forward_length(W)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(W)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["a", "b", "ab", "c", "d", "e", "<start_of_image>", "<end_of_image>"])
    writer.add_token_types([1, 1, 1, 1, 1, 1, 3, 3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(5)


square, row = np.zeros((W, W)), np.ones(W)
parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
text = {f"blk.0.{name}.weight": square for name in parts}
text |= {f"blk.0.{name}.weight": row for name in ("attn_norm", "ffn_norm")}
text |= {"token_embd.weight": np.zeros((8, W)), "output_norm.weight": row}
write("model.gguf", "llama", text_keys, text)


def tower(writer, kind, size, layers):
    """What every vision tower says of itself: patches of one pixel, one block."""
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(kind)
    writer.add_vision_image_size(size)
    writer.add_vision_patch_size(1)
    writer.add_vision_embedding_length(W)
    writer.add_vision_feed_forward_length(2 * W)
    writer.add_vision_block_count(1)
    writer.add_vision_head_count(1)
    writer.add_vision_projection_dim(W)
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_image_mean([0.0, 0.0, 0.0])
    writer.add_vision_image_std([1.0, 1.0, 1.0])
    writer.add_vision_use_gelu(True)


def block():
    """A block that adds nothing: what comes in goes out."""
    names = ("attn_q", "attn_k", "attn_v", "attn_out")
    made = {f"v.blk.0.{name}.weight": square for name in names} | {f"v.blk.0.{name}.bias": 0 * row for name in names}
    made |= {f"v.blk.0.{name}.{kind}": row * (kind == "weight") for name in ("ln1", "ln2") for kind in ("weight", "bias")}
    made |= {"v.blk.0.ffn_up.weight": np.zeros((2 * W, W)), "v.blk.0.ffn_up.bias": np.zeros(2 * W)}
    return made | {"v.blk.0.ffn_down.weight": np.zeros((W, 2 * W)), "v.blk.0.ffn_down.bias": 0 * row}


ffi = FFI()
ffi.cdef("""
struct model_params { void * a; void * b; int32_t n_gpu_layers; int s; int l; int z; int32_t m; float * t; void * p; void * u;
                      void * k; bool f[6]; };
struct media_params { bool use_gpu; void * device; bool timings; int n_threads; char * i; char * m; int flash; bool warmup;
                      int min; int max; void * c; void * d; int32_t batch; void * p; void * u; };
struct media_text { const char * text; size_t text_len; bool add_special; bool parse_special; };
void llama_log_set(void * callback, void * data);
void mtmd_log_set(void * callback, void * data);
void llama_backend_init(void);
struct model_params llama_model_default_params(void);
void * llama_model_load_from_file(const char * path, struct model_params params);
struct media_params mtmd_context_params_default(void);
void * mtmd_init_from_file(const char * path, void * model, struct media_params params);
void * mtmd_bitmap_init(uint32_t nx, uint32_t ny, const unsigned char * rgb);
void * mtmd_input_chunks_init(void);
void * mtmd_input_chunks_get(void * chunks, size_t n);
size_t mtmd_input_chunk_get_n_tokens(void * chunk);
int32_t mtmd_tokenize(void * context, void * chunks, struct media_text * text, void ** bitmaps, size_t n);
int32_t mtmd_encode_chunk(void * context, void * chunk);
float * mtmd_get_output_embd(void * context);
""")  # of llama.h and mtmd.h, build 11549


def tokens(picture, at):
    """What llama.cpp makes of a picture uint8[H, W, 3]: float32[T, W]; ``at``: which of its chunks shows it."""
    lib = ffi.dlopen(extension.__file__)
    lib.llama_backend_init()
    quiet = ffi.callback("void(int, char *, void *)", lambda *_: None)
    lib.llama_log_set(quiet, ffi.NULL)
    lib.mtmd_log_set(quiet, ffi.NULL)
    model = lib.llama_model_load_from_file(b"model.gguf", lib.llama_model_default_params())
    words = lib.mtmd_context_params_default()
    words.use_gpu = words.timings = words.warmup = False
    context = lib.mtmd_init_from_file(b"mmproj.gguf", model, words)
    assert model != ffi.NULL and context != ffi.NULL
    given = ffi.new("char[]", b"<__media__>")
    asked = ffi.new("struct media_text *", (given, len(given) - 1, False, True))
    chunks = lib.mtmd_input_chunks_init()
    pixels = ffi.from_buffer("unsigned char[]", np.ascontiguousarray(picture, dtype=np.uint8))
    bitmap = lib.mtmd_bitmap_init(picture.shape[1], picture.shape[0], pixels)
    assert lib.mtmd_tokenize(context, chunks, asked, ffi.new("void *[]", [bitmap]), 1) == 0
    chunk = lib.mtmd_input_chunks_get(chunks, at)
    assert lib.mtmd_encode_chunk(context, chunk) == 0
    count = lib.mtmd_input_chunk_get_n_tokens(chunk)
    values = ffi.buffer(lib.mtmd_get_output_embd(context), 4 * count * W)
    return np.frombuffer(values, np.float32).reshape(count, W).copy()


def keys(writer):
    tower(writer, "gemma3", 4, 1)
    writer.add_vision_projector_scale_factor(1)


# patches show their red channel in one column and nothing in the others; the projector norms them, so a token is large
# where there is picture and 0 where there is none
red = np.zeros((W, 3, 1, 1))
red[0, 0] = 1
tensors = block() | {"v.patch_embd.weight": red, "v.patch_embd.bias": 0 * row, "v.position_embd.weight": np.zeros((16, W))}
tensors |= {"mm.soft_emb_norm.weight": row, "mm.input_projection.weight": np.eye(W)}
write("mmproj.gguf", "clip", keys, tensors)
picture = np.full((4, 8, 3), 255, dtype=np.uint8)  # white, twice as wide as high
seen = tokens(picture, 1)[:, 0].reshape(4, 4) > 1
print("xllamacpp", version("xllamacpp"), "gguf 0.19.0")
print("guess: white everywhere, as Gemma3ImageProcessor squashes it; seen, rows of 4 tokens:")
print("\n".join("".join("#" if white else "." for white in one) for one in seen))
assert seen.tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]
PY
env/bin/python look.py

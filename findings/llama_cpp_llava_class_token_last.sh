#!/usr/bin/env bash
# llama.cpp reads a LLaVA with its class token behind the patches, and gives the LLM that token instead of the first patch.
#
# Guess: in an mmproj of projector_type "mlp" with v.class_embd, as llama.cpp's converter writes it, row 0 of
# v.position_embd belongs to the class token, rows 1 on to the patches, and the LLM gets the patches: what transformers' LLaVA
# 1.5 computes from the same weights.
# Seen (xllamacpp 2026.10.11549, which is build 11549; gguf 0.19.0): the class token stands last, so every patch has the
# position of its left neighbour; the first patch is left out, and the LLM gets the class token as the last of its tokens.
# Without a class token (SigLIP) all is as it should be. llama.cpp's issue 25814 says it has been so since May 2025.
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
    tower(writer, "mlp", 2, 1)
    writer.add_array("clip.vision.feature_layer", [1])


# patches show their red channel, position n adds n, the class token is 100; the projector adds and takes away 300, where
# GELU is the identity: so a patch's token is its red plus its position
red = np.zeros((W, 3, 1, 1))
red[:, 0] = 1
tensors = block() | {"v.patch_embd.weight": red, "v.class_embd": 100 * row}
tensors |= {"v.position_embd.weight": np.repeat(np.arange(5.0)[:, None], W, axis=1)}
tensors |= {"mm.0.weight": np.eye(W), "mm.0.bias": 300 * row, "mm.2.weight": np.eye(W), "mm.2.bias": -300 * row}
write("mmproj.gguf", "clip", keys, tensors)
picture = np.zeros((2, 2, 3), dtype=np.uint8)
picture[..., 0] = [[51, 102], [153, 204]]
seen = tokens(picture, 0)[:, 0].round(2)
print("xllamacpp", version("xllamacpp"), "gguf 0.19.0")
print("guess, red plus positions 1 to 4:", [1.2, 2.4, 3.6, 4.8])
print("seen:                            ", seen.tolist())
assert np.allclose(seen, [1.4, 2.6, 3.8, 104.0], atol=0.02), seen
PY
env/bin/python look.py

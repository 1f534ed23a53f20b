#!/usr/bin/env bash
# llama.cpp computes a Llama's yarn without the file's yarn_attn_factor, yarn_beta_fast and yarn_beta_slow.
#
# Guess: a Llama in GGUF with rope.scaling.type "yarn" is computed with the file's rope.scaling.yarn_attn_factor,
# yarn_beta_fast and yarn_beta_slow, into which llama.cpp's own converter writes a checkpoint's attention_factor, beta_fast
# and beta_slow; its rope.scaling.attn_factor is what cosines and sines are multiplied by, as transformers' attention_factor.
# Seen (xllamacpp 2026.10.11549, which is build 11549; gguf 0.19.0; transformers 5.23.0, torch 2.15.0): with any of the three
# keys the logits are bit for bit those without it, away from transformers' by 0.1 to 0.5 of their spread here. The same betas
# given by the caller, in llama_context_params, are used; the caller's yarn_attn_factor is not. rope.scaling.attn_factor is
# used, but times 1 + 0.1 ln(factor), which transformers replaces by its attention_factor.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet numpy==2.4.6 gguf==0.19.0 cffi==2.1.1 xllamacpp==2026.10.11549 torch==2.15.0 transformers==5.23.0
cat > look.py <<'PY'
import math
from importlib.metadata import version

import gguf
import numpy as np
import torch
import xllamacpp.xllamacpp as extension
from cffi import FFI
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS, WIDTH, HEADS, ORIGINAL, FACTOR = 32, 64, 2, 64, 4.0
IDS = np.random.default_rng(0).integers(0, TOKENS, 200).tolist()
OWN = 1 + 0.1 * math.log(FACTOR)
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": FACTOR, "original_max_position_embeddings": ORIGINAL}


def config(**yarn):
    sizes = {"vocab_size": TOKENS, "hidden_size": WIDTH, "intermediate_size": WIDTH, "max_position_embeddings": 256}
    heads = {"num_hidden_layers": 2, "num_attention_heads": HEADS, "num_key_value_heads": HEADS}
    return LlamaConfig(**sizes, **heads, rms_norm_eps=1e-6, rope_parameters=YARN | yarn, tie_word_embeddings=False)


torch.manual_seed(0)
weights = {name: 0.3 * torch.randn(one.shape) for name, one in LlamaForCausalLM(config()).state_dict().items()}


def right(**yarn):
    """What transformers computes with these words of yarn: float32[S, V]."""
    model = LlamaForCausalLM(config(**yarn)).eval()
    model.load_state_dict(weights)
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


def write(path, **keys):
    """The same weights, yarn and keys of it in a file, as llama.cpp's converter writes them."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(TOKENS)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(2)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("none")
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(FACTOR)
    writer.add_rope_scaling_orig_ctx_len(ORIGINAL)
    for word, value in keys.items():
        getattr(writer, f"add_rope_scaling_{word}")(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, one in weights.items():
        if "q_proj" in name or "k_proj" in name:  # GGUF's Llama has the two rows of a rotary pair beside each other
            one = one.reshape(HEADS, 2, -1, WIDTH).transpose(1, 2).reshape(one.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), one.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.encode()


ffi = FFI()
ffi.cdef("""
struct model_params { void * a; void * b; int32_t n_gpu_layers; int s; int l; int z; int32_t m; float * t; void * p; void * u;
                      void * k; bool f[6]; };
struct context_params { uint32_t n_ctx, n_batch, n_ubatch, n_seq_max, r, o, os; int32_t n_threads, n_threads_batch; int c, rope,
                        p, at, flash_attn_type; float base, scale, yarn_ext_factor, yarn_attn_factor, yarn_beta_fast,
                        yarn_beta_slow; uint32_t yarn_orig_ctx; float d; void * e; void * eu; int type_k, type_v; size_t m;
                        void * ab; void * abu; bool f[6]; void * s; size_t ns; void * other; };
struct batch { int32_t n; int32_t * token; float * e; int32_t * p; int32_t * ns; int32_t ** s; int8_t * logits; };
void llama_log_set(void * callback, void * data);
void llama_backend_init(void);
struct model_params llama_model_default_params(void);
struct context_params llama_context_default_params(void);
void * llama_model_load_from_file(const char * path, struct model_params params);
void * llama_init_from_model(void * model, struct context_params params);
void llama_free(void * context);
void llama_model_free(void * model);
struct batch llama_batch_init(int32_t n, int32_t embd, int32_t n_seq_max);
void llama_batch_free(struct batch batch);
int32_t llama_decode(void * context, struct batch batch);
float * llama_get_logits_ith(void * context, int32_t i);
""")  # of llama.h, build 11549
lib = ffi.dlopen(extension.__file__)
quiet = ffi.callback("void(int, char *, void *)", lambda *_: None)
lib.llama_log_set(quiet, ffi.NULL)
lib.llama_backend_init()


def seen(path, **given):
    """What llama.cpp computes in float32 with a file: float32[S, V]; ``given``: members of its context's parameters."""
    words = lib.llama_context_default_params()
    assert (words.n_ctx, words.n_batch, words.yarn_beta_fast, words.type_k) == (512, 2048, -1.0, 1)  # laid out as above
    words.n_ctx = words.n_batch = words.n_ubatch = 256
    words.n_threads = words.n_threads_batch = 1
    words.type_k = words.type_v = words.flash_attn_type = 0  # float32, no flash attention
    for word, value in given.items():
        setattr(words, word, value)
    model = lib.llama_model_load_from_file(path, lib.llama_model_default_params())
    assert model != ffi.NULL
    context = lib.llama_init_from_model(model, words)
    assert context != ffi.NULL
    batch = lib.llama_batch_init(len(IDS), 0, 1)
    batch.n = len(IDS)
    for n, number in enumerate(IDS):
        batch.token[n], batch.p[n], batch.ns[n], batch.s[n][0], batch.logits[n] = number, n, 1, 0, 1
    assert lib.llama_decode(context, batch) == 0
    rows = [ffi.buffer(lib.llama_get_logits_ith(context, n), 4 * TOKENS)[:] for n in range(len(IDS))]
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    lib.llama_model_free(model)
    return np.frombuffer(b"".join(rows), np.float32).reshape(len(IDS), TOKENS)


def apart(one, other):
    """Root of the mean squared difference, as a share of the spread of ``other``."""
    return float(np.sqrt(np.mean((one - other) ** 2)) / other.std())


for package in ("xllamacpp", "gguf", "transformers", "torch"):
    print(package, version(package), end="; ")
plain = seen(write("plain.gguf"))
print("\nyarn without those keys, away from transformers:", f"{apart(plain, right()):.1e}")
assert apart(plain, right()) < 1e-4
for key, value, word in (
    ("yarn_attn_factor", 1.5, "attention_factor"),
    ("yarn_beta_fast", 4.0, "beta_fast"),
    ("yarn_beta_slow", 0.25, "beta_slow"),
):
    guess = right(**{word: value})
    logits = seen(write(f"{key}.gguf", **{key: value}))
    assert f"llama.rope.scaling.{key}" in gguf.GGUFReader(f"{key}.gguf").fields
    told = seen(b"plain.gguf", **{key: value})
    print(f"rope.scaling.{key} {value}: as without it: {np.array_equal(logits, plain)}, away from transformers:", end=" ")
    print(f"{apart(logits, guess):.3f}; given by the caller: {apart(told, guess):.1e}")
    assert np.array_equal(logits, plain) and apart(logits, guess) > 0.01
    assert np.array_equal(told, plain) if key == "yarn_attn_factor" else apart(told, guess) < 1e-4
factor = seen(write("attn_factor.gguf", attn_factors=1.5))
as_it_is, multiplied = apart(factor, right(attention_factor=1.5)), apart(factor, right(attention_factor=1.5 * OWN))
print(f"rope.scaling.attn_factor 1.5: away from transformers' attention_factor 1.5: {as_it_is:.3f}", end="; ")
print(f"from its 1.5 (1 + 0.1 ln {FACTOR:g}) = {1.5 * OWN:.3f}: {multiplied:.1e}")
assert as_it_is > 0.01 and multiplied < 1e-4
PY
env/bin/python look.py

"""What of llama.cpp's C interface (``llama.h``, ``mtmd.h``, ``mtmd-helper.h`` of build 11549) is called, for cffi.

Its libraries lie inside the extension module of the package xllamacpp, which exports them.
"""

from __future__ import annotations

import importlib
from typing import Any

PACKAGE = "xllamacpp"
"""What brings llama.cpp for CPUs: ``pip install "mmllm[gguf]"``."""
VERSIONS = ("2026.10.11549",)
"""Releases whose structures are those below."""
DECLARATIONS = """
typedef int32_t llama_token;
typedef int32_t llama_pos;
typedef void (*log_callback)(int level, const char * text, void * user_data);

struct llama_model_params {
    void * devices;
    const void * tensor_buft_overrides;
    int32_t n_gpu_layers;
    int split_mode;
    int load_mode;
    int lazy_mode;
    int32_t main_gpu;
    const float * tensor_split;
    void * progress_callback;
    void * progress_callback_user_data;
    const void * kv_overrides;
    bool vocab_only;
    bool check_tensors;
    bool use_extra_bufts;
    bool no_host;
    bool no_alloc;
    bool load_mtp;
};
struct llama_context_params {
    uint32_t n_ctx;
    uint32_t n_batch;
    uint32_t n_ubatch;
    uint32_t n_seq_max;
    uint32_t n_rs_seq;
    uint32_t n_outputs_max;
    uint32_t n_outputs_max_per_seq;
    int32_t n_threads;
    int32_t n_threads_batch;
    int ctx_type;
    int rope_scaling_type;
    int pooling_type;
    int attention_type;
    int flash_attn_type;
    float rope_freq_base;
    float rope_freq_scale;
    float yarn_ext_factor;
    float yarn_attn_factor;
    float yarn_beta_fast;
    float yarn_beta_slow;
    uint32_t yarn_orig_ctx;
    float defrag_thold;
    void * cb_eval;
    void * cb_eval_user_data;
    int type_k;
    int type_v;
    size_t moe_cache_size;
    void * abort_callback;
    void * abort_callback_data;
    bool embeddings;
    bool offload_kqv;
    bool no_perf;
    bool op_offload;
    bool swa_full;
    bool kv_unified;
    void * samplers;
    size_t n_samplers;
    void * ctx_other;
};
struct llama_batch {
    int32_t n_tokens;
    llama_token * token;
    float * embd;
    llama_pos * pos;
    int32_t * n_seq_id;
    int32_t ** seq_id;
    int8_t * logits;
};
void llama_backend_init(void);
void llama_log_set(log_callback callback, void * user_data);
struct llama_model_params llama_model_default_params(void);
struct llama_context_params llama_context_default_params(void);
void * llama_model_load_from_file(const char * path, struct llama_model_params params);
void * llama_init_from_model(void * model, struct llama_context_params params);
const void * llama_model_get_vocab(const void * model);
int32_t llama_model_n_embd_inp(const void * model);
int32_t llama_vocab_n_tokens(const void * vocab);
bool llama_vocab_is_eog(const void * vocab, llama_token token);
int32_t llama_tokenize(const void * vocab, const char * text, int32_t text_len, llama_token * tokens,
                       int32_t n_tokens_max, bool add_special, bool parse_special);
void * llama_get_memory(const void * context);
void llama_memory_clear(void * memory, bool data);
struct llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max);
void llama_batch_free(struct llama_batch batch);
int32_t llama_decode(void * context, struct llama_batch batch);
float * llama_get_logits_ith(void * context, int32_t i);

struct mtmd_context_params {
    bool use_gpu;
    void * device;
    bool print_timings;
    int n_threads;
    const char * image_marker;
    const char * media_marker;
    int flash_attn_type;
    bool warmup;
    int image_min_tokens;
    int image_max_tokens;
    void * cb_eval;
    void * cb_eval_user_data;
    int32_t batch_max_tokens;
    void * progress_callback;
    void * progress_callback_user_data;
};
struct mtmd_input_text {
    const char * text;
    size_t text_len;
    bool add_special;
    bool parse_special;
};
void mtmd_log_set(log_callback callback, void * user_data);
void mtmd_helper_log_set(log_callback callback, void * user_data);
struct mtmd_context_params mtmd_context_params_default(void);
void * mtmd_init_from_file(const char * path, const void * model, const struct mtmd_context_params params);
void * mtmd_bitmap_init(uint32_t nx, uint32_t ny, const unsigned char * data);
void * mtmd_input_chunks_init(void);
size_t mtmd_input_chunks_size(const void * chunks);
const void * mtmd_input_chunks_get(const void * chunks, size_t index);
int mtmd_input_chunk_get_type(const void * chunk);
const llama_token * mtmd_input_chunk_get_tokens_text(const void * chunk, size_t * n_tokens);
size_t mtmd_input_chunk_get_n_tokens(const void * chunk);
int32_t mtmd_tokenize(const void * context, void * output, const struct mtmd_input_text * text,
                      const void * const * bitmaps, size_t n_bitmaps);
int32_t mtmd_encode_chunk(void * context, const void * chunk);
float * mtmd_get_output_embd(void * context);
int32_t mtmd_helper_eval_chunks(void * context, void * llama_context, const void * chunks, llama_pos n_past,
                                int32_t seq_id, int32_t n_batch, bool logits_last, llama_pos * new_n_past);
"""
F32, F16 = 0, 1
"""Numbers of ggml's types."""
NO_FLASH_ATTENTION = 0
"""Number of ``LLAMA_FLASH_ATTN_TYPE_DISABLED``."""
TEXT = 0
"""Number of ``MTMD_INPUT_CHUNK_TYPE_TEXT``."""
DEFAULTS = {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "type_k": F16, "type_v": F16}
"""What llama.cpp puts into the structure of a context; found at other places, it is laid out otherwise."""
MARK = "<__media__>"
"""Stands in llama.cpp's prompts where a picture does."""


def open_library() -> tuple[Any, Any]:
    """cffi's FFI and the library.

    Raises:
        RuntimeError: its structures are not those above, so that nothing may be called.
    """
    from cffi import FFI

    extension = importlib.import_module(f"{PACKAGE}.{PACKAGE}")  # loaded as a module first: it needs Python's symbols
    ffi = FFI()
    ffi.cdef(DECLARATIONS)
    lib = ffi.dlopen(extension.__file__)
    context, media = lib.llama_context_default_params(), lib.mtmd_context_params_default()
    found = {word: getattr(context, word) for word in DEFAULTS}
    mark = "" if media.media_marker == ffi.NULL else ffi.string(media.media_marker).decode()
    if found != DEFAULTS or mark != MARK:
        raise RuntimeError(f"the structures of {PACKAGE} are laid out otherwise than those of {', '.join(VERSIONS)}")
    return ffi, lib

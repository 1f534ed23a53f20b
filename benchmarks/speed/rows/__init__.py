"""Rows of the speed table, each a function that gives a :class:`~benchmarks.speed.measure.Comparison`."""

ROWS = {
    "train_stage1": "benchmarks.speed.rows.train:stage1",
    "train_stage1_tiles": "benchmarks.speed.rows.train:stage1_tiles",
    "train_stage2": "benchmarks.speed.rows.train:stage2",
    "train_stage1_shared": "benchmarks.speed.rows.train:stage1_shared",
    "train_stage2_shared": "benchmarks.speed.rows.train:stage2_shared",
    "memory_stage1_152k": "benchmarks.speed.rows.train:memory_stage1",
    "memory_stage2_152k": "benchmarks.speed.rows.train:memory_stage2",
    "chat_turn5_first_token": "benchmarks.speed.rows.answers:chat_turn5_first_token",
    "serve_8": "benchmarks.speed.rows.answers:serve_8",
    "serve_32": "benchmarks.speed.rows.answers:serve_32",
    "eval_4_per_picture": "benchmarks.speed.rows.answers:eval_4_per_picture",
    "eval_real": "benchmarks.speed.rows.real:eval_real",
    "video_gop30": "benchmarks.speed.rows.reading:video_gop30",
    "video_gop250": "benchmarks.speed.rows.reading:video_gop250",
    "tiles_12": "benchmarks.speed.rows.reading:tiles_12",
    "plan_tokens": "benchmarks.speed.rows.reading:plan_tokens",
    "moe_lora": "benchmarks.speed.rows.adapters:moe_lora",
}
"""Name -> where the function is; it imports what it measures, so that listing the rows needs nothing."""

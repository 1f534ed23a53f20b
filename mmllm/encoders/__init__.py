"""Frozen encoders, one file each: a media item becomes features that a connector brings into the LLM."""

TABLE: dict[str, str] = {
    "open_clip": "mmllm.encoders.open_clip:OpenClipEncoder",
    "hf_vision": "mmllm.encoders.hf_vision:HfVisionEncoder",
    "hf_audio": "mmllm.encoders.hf_audio:HfAudioEncoder",
    "text_graph": "mmllm.encoders.text_graph:TextGraphEncoder",
    "frames": "mmllm.encoders.frames:FramesEncoder",
    "points": "mmllm.encoders.points:PointsEncoder",
    "document": "mmllm.encoders.document:DocumentEncoder",
}

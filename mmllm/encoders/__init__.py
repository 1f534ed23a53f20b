"""Frozen encoders, one file each: a media item becomes features that a connector brings into the LLM."""

TABLE: dict[str, str] = {
    "open_clip": "mmllm.encoders.image.open_clip:OpenClipEncoder",
    "hf_vision": "mmllm.encoders.image.hf_vision:HfVisionEncoder",
    "hf_native": "mmllm.encoders.image.native.hf_native:HfNativeEncoder",
    "hf_audio": "mmllm.encoders.audio.hf_audio:HfAudioEncoder",
    "text_graph": "mmllm.encoders.graph.text_graph:TextGraphEncoder",
    "tiles": "mmllm.encoders.image.tiles:TilesEncoder",
    "frames": "mmllm.encoders.video.frames:FramesEncoder",
    "points": "mmllm.encoders.points.points:PointsEncoder",
    "document": "mmllm.encoders.document:DocumentEncoder",
}

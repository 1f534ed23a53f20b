"""Frozen encoders, one file each: a media item becomes features that a connector brings into the LLM."""

TABLE: dict[str, str] = {
    "open_clip": "mmllm.encoders.image.open_clip:OpenClipEncoder",
    "hf_vision": "mmllm.encoders.image.hf_vision:HfVisionEncoder",
    "hf_native": "mmllm.encoders.image.native.hf_native:HfNativeEncoder",
    "hf_sam": "mmllm.encoders.image.sam.hf_sam:HfSamEncoder",
    "patches": "mmllm.encoders.image.patches:PatchesEncoder",
    "hf_audio": "mmllm.encoders.audio.hf_audio:HfAudioEncoder",
    "waveform": "mmllm.encoders.audio.waveform:WaveformEncoder",
    "text_graph": "mmllm.encoders.graph.text_graph:TextGraphEncoder",
    "tiles": "mmllm.encoders.image.tiles:TilesEncoder",
    "mllama_vision": "mmllm.encoders.image.mllama_vision:MllamaVisionEncoder",
    "frames": "mmllm.encoders.video.frames:FramesEncoder",
    "hf_video": "mmllm.encoders.video.hf_video:HfVideoEncoder",
    "points": "mmllm.encoders.points.points:PointsEncoder",
    "document": "mmllm.encoders.document:DocumentEncoder",
}

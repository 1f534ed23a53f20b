"""What one dataset is: each source yields samples; one file per format. Listed here, imported on use."""

TABLE: dict[str, str] = {
    "chat_jsonl": "mmllm.sources.chat_jsonl:ChatJsonl",
    "easy_vqa": "mmllm.sources.easy_vqa:EasyVqa",
    "fsdd": "mmllm.sources.fsdd:Fsdd",
    "msvd_qa": "mmllm.sources.msvd_qa:MsvdQa",
    "msrvtt_qa": "mmllm.sources.msrvtt_qa:MsrvttQa",
    "nextqa": "mmllm.sources.nextqa:NextQa",
    "modelnet": "mmllm.sources.modelnet:ModelNet",
    "planetoid": "mmllm.sources.planetoid:Planetoid",
    "text_attributed_graph": "mmllm.sources.text_attributed_graph:TextAttributedGraph",
}

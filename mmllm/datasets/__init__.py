"""Datasets: each yields samples; one file per format. Listed here, imported on use."""

TABLE: dict[str, str] = {
    "chat": "mmllm.datasets.chat:Chat",
    "chat_jsonl": "mmllm.datasets.chat:Chat",
    "easy_vqa": "mmllm.datasets.easy_vqa:EasyVqa",
    "fsdd": "mmllm.datasets.fsdd:Fsdd",
    "grounded_text": "mmllm.datasets.grounded_text:GroundedText",
    "msvd_qa": "mmllm.datasets.msvd_qa:MsvdQa",
    "msrvtt_qa": "mmllm.datasets.msrvtt_qa:MsrvttQa",
    "nextqa": "mmllm.datasets.nextqa:NextQa",
    "modelnet": "mmllm.datasets.modelnet:ModelNet",
    "planetoid": "mmllm.datasets.planetoid:Planetoid",
    "text_attributed_graph": "mmllm.datasets.text_attributed_graph:TextAttributedGraph",
}

"""Benchmarks: each reads the official files of one test set, asks its questions and scores the answers."""

TABLE: dict[str, str] = {
    "mini_scenes": "mmllm.eval.benchmarks.mini_scenes:MiniScenes",
    "mini_digits": "mmllm.eval.benchmarks.mini_digits:MiniDigits",
    "mini_documents": "mmllm.eval.benchmarks.mini_documents:MiniDocuments",
    "mini_grounding": "mmllm.eval.benchmarks.mini_grounding:MiniGrounding",
    "easy_vqa": "mmllm.eval.benchmarks.easy_vqa:EasyVqa",
    "vqav2": "mmllm.eval.benchmarks.vqav2:VqaV2",
    "textvqa": "mmllm.eval.benchmarks.textvqa:TextVqa",
    "docvqa": "mmllm.eval.benchmarks.docvqa:DocVqa",
    "chartqa": "mmllm.eval.benchmarks.chartqa:ChartQa",
    "msvd_qa": "mmllm.eval.benchmarks.msvd_qa:MsvdQa",
    "msrvtt_qa": "mmllm.eval.benchmarks.msrvtt_qa:MsrvttQa",
    "nextqa": "mmllm.eval.benchmarks.nextqa:NextQa",
    "mvbench": "mmllm.eval.benchmarks.mvbench:MvBench",
    "modelnet": "mmllm.eval.benchmarks.modelnet:ModelNet",
    "mini_points": "mmllm.eval.benchmarks.mini_points:MiniPoints",
    "mini_recall": "mmllm.eval.benchmarks.mini_recall:MiniRecall",
    "node_classification": "mmllm.eval.benchmarks.node_classification:NodeClassification",
    "mini_graph": "mmllm.eval.benchmarks.mini_graph:MiniGraph",
}

"""A chat request, read: its conversation encoded, its settings and what its answer has to follow."""

from __future__ import annotations

from mmllm.generation.constraints.grammars import OBJECT, calls_grammar, json_grammar
from mmllm.generation.constraints.guidance import Grammar
from mmllm.generation.generator import Encoded
from mmllm.serving.conversation import to_sample
from mmllm.serving.requests.chat import BySchema, ChatRequest
from mmllm.serving.served import Asked, Served


def read_chat(served: Served, body: ChatRequest, ident: str, tenant: str) -> Asked:
    """Decode, tokenise and measure, on a thread of its own; every fault of the request is found here (ApiError 400)."""
    grammar = grammar_of(served, body)
    encoded = encode_chat(served, body, ident, tenant)
    limit = served.limit(encoded, body.limit, body.limit_field)
    return Asked(encoded, body.samplings(limit, served.width, body.n_logprobs), grammar)


def encode_chat(served: Served, body: ChatRequest, ident: str, tenant: str) -> Encoded:
    """Return the conversation of a request, its media read; ApiError 400 for every fault of it."""
    return served.encode(
        ident,
        # before anything is looked at: the text may be as long as a body
        body.n_characters,
        lambda: served.generator.encode(to_sample(body, ident, served.inputs, served.limits), tenant),
    )


def grammar_of(served: Served, body: ChatRequest) -> Grammar | None:
    """Return what the answer has to follow; None: it is free."""
    if body.is_json:
        form = body.response_format
        schema = form.json_schema.schema_ if isinstance(form, BySchema) else OBJECT
        return served.compile(lambda: json_grammar(schema), "response_format")
    if not body.offers_tools:
        return None
    functions = {tool.function.name: tool.function.schema_of_arguments for tool in body.callable_tools}
    several = body.parallel_tool_calls is not False and body.tool_choice in (None, "auto", "required")
    free = body.tool_choice in (None, "auto")
    return served.compile(lambda: calls_grammar(functions, text=free, several=several), "tools")

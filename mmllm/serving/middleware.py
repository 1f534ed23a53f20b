"""Around every HTTP exchange: a request id on each answer and a cap on the bytes of a body, counted as they arrive."""

from __future__ import annotations

import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmllm.serving.schema import ApiError

REQUEST_ID = "x-request-id"


class RequestId:
    """Middleware that gives each request an id (``scope["state"]["request_id"]``), sent back as ``x-request-id``."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one exchange; only HTTP is touched."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        ident = f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = ident

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = ident
            await send(message)

        return await self.app(scope, receive, send_with_id)


class BodyLimit:
    """Middleware that refuses bodies of more than ``max_body`` bytes with 413, whatever Content-Length claims."""

    def __init__(self, app: ASGIApp, max_body: int) -> None:
        self.app = app
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one exchange; the error is raised where the body is read and becomes the usual envelope there."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        claimed = Headers(scope=scope).get("content-length", "")
        # 19 digits hold any real length; a header of thousands of them would cost time, or Python's limit on
        # conversions
        seen = int(claimed) if claimed.isdecimal() and len(claimed) < 20 else 0
        arrived = 0

        async def receive_within_limit() -> Message:
            nonlocal arrived
            if seen > self.max_body:
                raise self._error()
            message = await receive()
            arrived += len(message.get("body", b"")) if message["type"] == "http.request" else 0
            if arrived > self.max_body:
                raise self._error()
            return message

        return await self.app(scope, receive_within_limit, send)

    def _error(self) -> ApiError:
        message = f"The request is larger than {self.max_body} bytes; send fewer or smaller files."
        return ApiError(413, message, code="request_too_large")

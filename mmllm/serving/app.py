"""The HTTP server around one trained run: loads it, builds the application, turns every error into one envelope.

``mmllm serve runs/demo`` starts it, and so does any ASGI server through the repository's ``serve/app.py``;
``streamlit_app.py`` and the ``openai`` client (``base_url=.../v1``) talk to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from mmllm.errors import MmllmError
from mmllm.generation.memory import Sizes
from mmllm.recipe.load import load_recipe
from mmllm.serving.access import Access, Guard, host_name, is_local
from mmllm.serving.api import Api
from mmllm.serving.connections import IDLE, TimedConnection
from mmllm.serving.decisions.calibration import calibration_beside
from mmllm.serving.endpoints.chat import Chat
from mmllm.serving.endpoints.completions import Completions
from mmllm.serving.endpoints.decisions import Decisions
from mmllm.serving.endpoints.embeddings import Embeddings
from mmllm.serving.endpoints.looks import Looks
from mmllm.serving.endpoints.responses import Responses
from mmllm.serving.endpoints.tokens import Tokens
from mmllm.serving.endpoints.transcriptions import Transcriptions
from mmllm.serving.media import Limits
from mmllm.serving.metrics import CountedResponses
from mmllm.serving.middleware import REQUEST_ID, BodyLimit, RequestId
from mmllm.serving.models import Models, OneModel, SetModels
from mmllm.serving.page import page_command
from mmllm.serving.schema import ApiError, error_response, validation_error
from mmllm.serving.tasks.tools import Tools
from mmllm.sets.library import SetLibrary
from mmllm.sets.offers import Offers, groups_of

if TYPE_CHECKING:
    from mmllm.checkpoints.load import Trust
    from mmllm.generation.generator import Generator
    from mmllm.recipe.models import Recipe

LOG = logging.getLogger("serve")


def serve(
    run: Path,
    host: str | None = None,
    port: int | None = None,
    overrides: Sequence[str] = (),
    trust: Trust | None = None,
    access: Access | None = None,
    more: Sequence[Path] = (),
    sets: Path | None = None,
    tools: Path | None = None,
) -> None:
    """Serve the last checkpoint of ``run`` until interrupted; address and limits default to the recipe's ``serve``.

    ``more``: further runs, and ``sets``: a folder of such, each a model over the frozen parts that they share.
    ``tools``: a file of tools that answers may ask for.
    ``overrides`` and ``trust``: as ``checkpoints.load.load_run`` has them. ``access``: see ``load_app``; without keys
    and not open, an address that others than this machine's users reach is refused.
    """
    access = access or Access()
    if host is not None:  # before minutes of loading
        check_address(host, access)
    recipe, app = load_app(run, overrides, trust, access, more, sets, tools)
    host, port = host or recipe.serve.host, recipe.serve.port if port is None else port
    check_address(host, access)
    listener = _listen(host, port)
    _log_to_terminal()
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    LOG.info("%s is at %s/v1; chat with it: %s", recipe.name, address, page_command(address))
    names = app.state.models.names()
    if len(names) > 1:
        LOG.info("models: %s", ", ".join(names))
    LOG.info("%s", _key_state(access))
    config = uvicorn.Config(
        app,
        http=TimedConnection,
        ws="none",
        log_level="info",
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=10,
    )
    uvicorn.Server(config).run(sockets=[listener])


def check_address(host: str, access: Access) -> None:
    """Raise MmllmError where strangers would reach the server and nothing asks who they are."""
    if access.keys is None and not access.open and not is_local(host):
        raise MmllmError(
            f"Anybody who reaches {host} could use the model: give --keys FILE (mmllm keys add NAME --keys FILE "
            "makes a key), listen on 127.0.0.1, or say --open."
        )


def _key_state(access: Access) -> str:
    """Return a sentence about who may ask."""
    if access.keys is not None:
        return f"{len(access.keys)} keys of {access.keys.path} may use it"
    return (
        "no key is asked for: anybody who reaches the address may use it"
        if access.open
        else ("no key is asked for: it answers on this machine alone")
    )


def _log_to_terminal() -> None:
    """Let the server's own lines through to standard error, whatever the root logger is."""
    # open_clip, for one, sets the root logger to warnings when it loads a model, and a second basicConfig does nothing
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    LOG.handlers = [handler]
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


def load_app(
    run: Path,
    overrides: Sequence[str] = (),
    trust: Trust | None = None,
    access: Access | None = None,
    more: Sequence[Path] = (),
    sets: Path | None = None,
    tools: Path | None = None,
) -> tuple[Recipe, FastAPI]:
    """Return the recipe of a run folder, and the application around its last checkpoint with the recipe's limits.

    The recipe's hosts and origins join those of ``access``. ``more``, ``sets``, ``tools``: see :func:`serve`; the
    limits are those of ``run``.
    """
    access = access or Access()
    called = None if tools is None else Tools.read(tools)  # before minutes of loading
    if more or sets is not None:
        recipe, generator, models = _several(run, more, sets, overrides, trust, access)
    else:
        from mmllm.generation.opening import open_run

        recipe, generator = open_run(run, overrides, trust)
        groups = groups_of(recipe, run)
        check_groups(run, groups, access)
        models = OneModel(generator, recipe.name, groups, calibration_beside(run))
    options = recipe.serve
    hosts = access.hosts | {host_name(host) for host in (options.host, *options.hosts)}
    origins = (*access.origins, *options.origins)
    access = replace(access, hosts=hosts, origins=origins)
    return recipe, create_app(generator, recipe.name, Limits.of(options), access, models, called)


def _several(
    run: Path, more: Sequence[Path], sets: Path | None, overrides: Sequence[str], trust: Trust | None, access: Access
) -> tuple[Recipe, Generator, Models]:
    """The first run's recipe and generator, and a model for each run and each set."""
    offers = Offers(sets, trust is not None and trust.code)
    first = offers.give(run)
    options = load_recipe(run / "recipe.yaml", overrides).serve
    library = SetLibrary(
        offers, Sizes.of(options), options.sets_memory, options.set_waiting, overrides=overrides, trust=trust
    )
    for offer in (first, *(offers.give(one) for one in more)):
        check_groups(offer.run, offer.groups, access)
        library.pin(offer)
    held = library.held(first.name)
    assert held is not None
    return held.run.recipe, held.generator, SetModels(library)


def check_groups(run: Path, groups: frozenset[str], access: Access) -> None:
    """Raise MmllmError where a run is for groups alone, and no key says who is of one."""
    if groups and access.keys is None:
        raise MmllmError(
            f"{run} learned from data of the group {', '.join(sorted(groups))}, and is for its members alone: give "
            "--keys FILE (mmllm keys add NAME --groups GROUP --keys FILE makes a key of a member)."
        )


def create_app(
    generator: Generator,
    model_name: str,
    limits: Limits | None = None,
    access: Access | None = None,
    models: Models | None = None,
    tools: Tools | None = None,
) -> FastAPI:
    """Return the application around ``generator``, offering one model called ``model_name`` to those of ``access``.

    ``models``: several instead, over the engine of ``generator``; ``tools``: that answers may ask for.
    """
    access = access or Access()
    api = Api(generator, model_name, limits or Limits(), models, tools)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        api.start()
        watching = asyncio.create_task(api.models_offered.watch())
        yield
        watching.cancel()
        await asyncio.to_thread(api.close)

    app = FastAPI(title=f"mmllm: {model_name}", lifespan=lifespan)
    app.state.models = api.models_offered
    # the one added last is the outermost: a body that BodyLimit refuses has an id too
    app.add_middleware(BodyLimit, max_body=api.limits.max_body, max_text=generator.most_characters)
    app.add_middleware(Guard, access=access)
    if access.origins:
        # around the keys: a browser asks first whether it may send one
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
            expose_headers=[REQUEST_ID, "retry-after"],
        )
    app.add_middleware(CountedResponses, metrics=api.metrics)
    app.add_middleware(RequestId)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_failure)
    _add_routes(app, api)
    return app


def _add_routes(app: FastAPI, api: Api) -> None:
    for path, answer in (("/health", api.health), ("/ready", api.ready), ("/metrics", api.numbers)):
        # no response model, here and below: FastAPI would try to make a schema of classes of responses
        app.add_api_route(path, answer, methods=["GET"], response_model=None)
    app.add_api_route("/v1/models", api.models, methods=["GET"])
    # path: a model's name may hold a slash
    app.add_api_route("/v1/models/{name:path}", api.model, methods=["GET"])
    app.add_api_route("/preview", api.preview, methods=["POST"])
    looks = Looks(api)
    posts: dict[str, Callable[..., Any]] = {
        "/v1/chat/completions": Chat(api).create,
        "/v1/completions": Completions(api).create,
        "/v1/responses": Responses(api).create,
        "/v1/decisions": Decisions(api).create,
        "/v1/embeddings": Embeddings(api).create,
        "/v1/audio/transcriptions": Transcriptions(api).create,
        "/tokenize": Tokens(api).create,
        "/seen": looks.seen,
        "/attention": looks.attention,
    }
    for path, answer in posts.items():
        app.add_api_route(path, answer, methods=["POST"], response_model=None)


def _listen(host: str, port: int) -> socket.socket:
    """Return a bound socket, so that an address that is taken is one sentence before the model is served."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    # a restart at once: connections of the ended server may still hold the port
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OverflowError as error:
        listener.close()
        raise MmllmError(f"--port {port} is no port; there are 0 (any that is free) to 65535.") from error
    except OSError as error:
        listener.close()
        raise MmllmError(f"Cannot listen on {host}:{port} ({error.strerror}); choose another with --port.") from error
    return listener


def _headers(request: Request) -> dict[str, str]:
    # set here as well: Starlette answers unforeseen errors outside of all middleware
    return {REQUEST_ID: request.scope["state"]["request_id"]}


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return error_response(validation_error(list(error.errors())), _headers(request))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if not isinstance(error, ApiError):
        sentences = {404: "There is nothing at this path.", 405: "This path does not take that method."}
        message = sentences.get(error.status_code, str(error.detail))
        error = ApiError(error.status_code, message, headers=dict(error.headers or {}))
    return error_response(error, _headers(request))


async def _on_failure(request: Request, error: Exception) -> JSONResponse:
    """Answer what nobody foresaw: the log has it, the client gets no internals."""
    message = "The server failed to answer this request; its log says why."
    return error_response(ApiError(500, message), _headers(request))

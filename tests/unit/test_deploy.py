"""What ``serve/`` holds for those who deploy, read without Docker, systemd and nginx: names, options, ports, limits."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fastapi.routing import APIRoute
from uvicorn.importer import import_from_string
from uvicorn.main import main as uvicorn

import serve.app
from mmllm.cli import _parser
from mmllm.recipe.models import Serve
from mmllm.serving.app import create_app
from mmllm.serving.connections import IDLE, TimedConnection
from tests.support.places import ROOT
from tests.support.serving import MODEL, tiny_generator

SERVE = ROOT / "serve"
VARIABLES = {serve.app.RUN, serve.app.KEYS, serve.app.OPEN, serve.app.HOSTS}


def instructions(file: Path) -> list[tuple[str, str]]:
    """Instruction and arguments of each line of a Dockerfile."""
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def test_the_image_runs_the_server_as_nobody_special() -> None:
    lines = instructions(SERVE / "Dockerfile")
    last = {word: rest for word, rest in lines}
    assert last["USER"] not in ("", "0", "root")
    assert [word for word, _ in lines].index("USER") < [word for word, _ in lines].index("CMD")
    assert "http://127.0.0.1:8000/health" in last["HEALTHCHECK"]
    program, *options = json.loads(last["CMD"])
    assert program == "uvicorn"
    asked = uvicorn.make_context(program, options).params
    assert (asked["app"], asked["factory"], asked["port"]) == ("serve.app:app", True, 8000)
    assert (asked["timeout_graceful_shutdown"], asked["timeout_keep_alive"]) == (10, IDLE)
    assert import_from_string(asked["http"]) is TimedConnection


def test_what_the_image_copies_is_there() -> None:
    for word, rest in instructions(SERVE / "Dockerfile"):
        if word == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            assert [name for name in sources if not (ROOT / name).exists()] == []


def test_every_service_of_compose_stays_on_the_loopback_and_is_watched() -> None:
    composed = yaml.safe_load((SERVE / "compose.yaml").read_text())
    gpu = yaml.safe_load((SERVE / "compose.gpu.yaml").read_text())
    assert set(gpu["services"]) <= set(composed["services"])
    for name, service in composed["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert service["cap_drop"] == ["ALL"]
    api, page = composed["services"]["api"], composed["services"]["page"]
    assert {key for key in api["environment"] if key.startswith("MMLLM_")} <= VARIABLES
    # the page asks for the name of the service, which the server must know
    assert page["environment"]["MMLLM_SERVER"] == f"http://{api['environment'][serve.app.HOSTS]}:8000"
    assert page["depends_on"]["api"] == {"condition": "service_healthy"} and "healthcheck" in page
    assert all((ROOT / "serve" / volume.split(":")[0]).resolve().parent == ROOT for volume in api["volumes"][:2])


@pytest.mark.parametrize("name", ["mmllm", "mmllm-page"])
def test_units_start_what_there_is(name: str) -> None:
    unit = configparser.RawConfigParser(strict=False, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(SERVE / f"{name}.service")
    service = dict(unit["Service"])
    assert service["User"] not in ("", "root")
    assert service["NoNewPrivileges"] == "true" and service["ProtectSystem"] == "strict"
    program, *options = shlex.split(service["ExecStart"])
    if name == "mmllm":
        asked = _parser().parse_args(options)
        assert program.endswith("/bin/mmllm") and (asked.host, asked.port) == ("127.0.0.1", 8000)
        # more than the 10 seconds that answers have
        assert int(service["TimeoutStopSec"]) > 10
    else:
        assert options[:2] == ["run", "streamlit_app.py"] and options[options.index("--server.port") + 1] == "8501"


def directives(file: Path) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Of an nginx configuration each directive and the blocks around it; ValueError where a brace is missing."""
    around: list[str] = []
    words: list[str] = []
    for token in re.findall(r"#[^\n]*|'[^']*'|\"[^\"]*\"|[{};]|[^\s{};]+", file.read_text()):
        if token.startswith("#"):
            continue
        if token not in "{};":
            words.append(token.strip("'\""))
            continue
        if token == "{":
            around.append(" ".join(words))
        elif token == ";":
            yield tuple(around), tuple(words)
        elif words or not around:
            raise ValueError(f"a '}}' behind {words or 'the last block'}")
        else:
            around.pop()
        words = []
    if around or words:
        raise ValueError(f"open at the end: {around or words}")


def test_nginx_hands_on_what_the_server_has_and_refuses_what_is_too_large() -> None:
    found = list(directives(SERVE / "nginx.conf"))
    plain = {words[0]: words[1:] for around, words in found if around == ("server",)}
    assert plain["client_max_body_size"] == (f"{Serve().max_body >> 20}m",)
    by_place: dict[str, dict[str, tuple[str, ...]]] = {}
    for around, words in found:
        if len(around) == 2:
            by_place.setdefault(around[1], {})[words[0]] = words[1:]
    ports = {place: inside["proxy_pass"] for place, inside in by_place.items() if "proxy_pass" in inside}
    asked = next(place for place in ports if "v1/" in place)
    assert ports == {
        asked: ("http://127.0.0.1:8000",),
        "location ~ ^/(?:health|ready)$": ("http://127.0.0.1:8000",),
        "location /": ("http://127.0.0.1:8501",),
    }
    assert by_place[asked]["proxy_buffering"] == ("off",)  # a stream's pieces are not kept back
    pattern = re.compile(asked.removeprefix("location ~ "))
    routes = {route.path for route in create_app(tiny_generator(), MODEL).routes if isinstance(route, APIRoute)}
    assert {path for path in routes if pattern.match(path)} == {
        path for path in routes if path.startswith("/v1/") or path == "/tokenize"
    }

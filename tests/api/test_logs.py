"""What does a line of the log look like? Configured in a process of its own, as services are."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from app.auth.keys import new_key
from app.auth.tokens import sign_token
from app.telemetry.logs import FIELD_CHARS, REDACTED, redact

START = (
    "import logging, structlog\n"
    "from app.telemetry.logs import configure_logging\n"
    "configure_logging(level='INFO', environment='test', service='gateway')\n"
    "log = structlog.get_logger()\n"
)


def lines(code: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", START + code], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_an_event_is_one_json_object_with_its_context() -> None:
    (line,) = lines(
        "structlog.contextvars.bind_contextvars(request_id='r1', job_id='j1')\n"
        "log.info('job_submitted', backend='simulator@aer')\n"
        "log.debug('unseen')\n"
    )

    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "job_submitted",
        "level": "info",
        "logger": "__main__",
        "service": "gateway",
        "environment": "test",
        "request_id": "r1",
        "job_id": "j1",
        "backend": "simulator@aer",
    }


def test_libraries_log_the_same_way() -> None:
    first, second = lines(
        "structlog.contextvars.bind_contextvars(request_id='r1')\n"
        "logging.getLogger('celery.worker').warning('lost %s', 'redis://user:pass@host/0')\n"
        "logging.getLogger('uvicorn.error').info('started')\n"
        "logging.getLogger('uvicorn.access').info('unseen: the API has its own')\n"
    )

    assert first["event"] == f"lost redis://{REDACTED}@host/0"
    assert first["logger"] == "celery.worker"
    assert first["level"] == "warning"
    assert first["request_id"] == "r1"
    assert second["event"] == "started"


def test_uvicorns_own_configuration_is_replaced() -> None:
    (line,) = lines(
        "import uvicorn\n"
        "uvicorn.Config('x:y')\n"
        "configure_logging(level='INFO', environment='test', service='gateway')\n"
        "logging.getLogger('uvicorn.error').info('started')\n"
        "logging.getLogger('uvicorn.access').info('unseen')\n"
    )

    assert line["event"] == "started"


def test_a_traceback_is_a_field() -> None:
    (line,) = lines(
        "try:\n    raise ValueError('x' * 100_000)\n"
        "except ValueError:\n    logging.getLogger('uvicorn.error').exception('crashed')\n"
    )

    assert "Traceback" in line["exception"]
    assert len(line["exception"]) < 20_000


def test_text_cannot_steer_a_terminal_or_forge_a_line() -> None:
    code = (
        r"log.info('job_failed', text='\x1b[2J\x9b31m\r\n{\"event\": \"forged\"}', half='\ud800')"
    )
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, check=True)

    (line,) = done.stderr.splitlines()
    assert all(0x20 <= byte < 0x7F for byte in line)
    assert json.loads(line)["text"].startswith("\x1b[2J")


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "API-Key",
        "access_token",
        "redis_password",
        "client_secret",
        "Set-Cookie",
        "params",
        "result",
        "source",
    ],
)
def test_secrets_programs_and_results_are_blanked(name: str) -> None:
    assert redact(None, "info", {name: "hidden"}) == {name: REDACTED}
    assert redact(None, "info", {"headers": {name: "hidden"}}) == {"headers": {name: REDACTED}}


def test_credentials_in_urls_are_blanked_wherever_they_are() -> None:
    event = redact(None, "info", {"hosts": [{"url": "redis://:pass@host:1/0"}], "n": 1, "x": None})

    assert event == {"hosts": [{"url": f"redis://{REDACTED}@host:1/0"}], "n": 1, "x": None}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("GET /x Authorization: Bearer abc.def", f"GET /x Authorization: Bearer {REDACTED}"),
        ("authorization: APIKEY s3cret, x=1", f"authorization: APIKEY {REDACTED}, x=1"),
        ("grant_type=a&apikey=s3cret&b=c", f"grant_type=a&apikey={REDACTED}&b=c"),
        ("{'a': 'Basic dXNlcjpwYXNz'}", f"{{'a': 'Basic {REDACTED}'}}"),
        pytest.param("no such key: " + new_key() + "!", f"no such key: {REDACTED}!", id="key"),
        pytest.param(
            "bad " + sign_token(key_id="k", secret="s" * 32, life_s=60).text,
            f"bad {REDACTED}",
            id="token",
        ),
        ("the bearer of this message", "the bearer [redacted] this message"),
        ("q[0] qf_short eyJ.x.y", "q[0] qf_short eyJ.x.y"),
    ],
)
def test_credentials_in_texts_are_blanked_wherever_they_are(text: str, told: str) -> None:
    assert redact(None, "info", {"error": text, "in": [text]}) == {"error": told, "in": [told]}


def test_a_traceback_tells_no_key() -> None:
    key = new_key()

    (line,) = lines(
        f"try:\n    raise ValueError('{key}')\n"
        "except ValueError:\n    logging.getLogger('uvicorn.error').exception('crashed')\n"
    )

    assert key not in json.dumps(line)
    assert f"ValueError: {REDACTED}" in line["exception"]


def test_looking_for_credentials_takes_no_longer_for_a_text_that_looks_like_many() -> None:
    for text in ("eyJ-" * 50_000, "qf_" * 50_000, "bearer " * 50_000, "eyJab." * 50_000):
        redact(None, "info", {"exception": text})


def test_no_field_is_longer_than_a_bound() -> None:
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested, "x" * 100]

    event = redact(None, "info", {"text": "x" * 10**6, "many": list(range(10**5)), "deep": nested})

    assert len(event["text"]) < FIELD_CHARS + 50
    assert len(event["many"]) < 100
    assert len(json.dumps(event["deep"])) < 2 * FIELD_CHARS

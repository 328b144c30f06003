"""Whatever is sent that the API's description allows, or nearly: no answer is an error of ours.

The suite sends a little, always the same. `make fuzz` sends more, each time something else.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from app.local.valkey import EmbeddedValkey
from tests.integration.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Requests to each route.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "8"))
IN_SUITE = "FUZZ_EXAMPLES" not in os.environ

pytestmark = [
    pytest.mark.timeout(240 if IN_SUITE else 7200),
    # schemathesis leaves the connections that it has made to whoever collects garbage.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fuzz")
    valkey = EmbeddedValkey(folder=folder, fsync="everysec")
    made = Fleet(
        folder=folder,
        valkey=valkey,
        QFLEET_SANDBOX__TIME_LIMIT_S="5",
    )
    try:
        made.start_valkey()
        made.start_gateway()
        made.start_worker()
        yield made
    finally:
        made.close()


def test_no_request_that_looks_allowed_is_answered_with_an_error_of_ours(fleet: Fleet) -> None:
    config = schemathesis.Config.from_dict(
        {"generation": {"mode": "all", "allow-x00": True}, "request-timeout": 30}
    )
    schema = schemathesis.openapi.from_url(
        f"http://127.0.0.1:{fleet.port}/openapi.json", config=config
    )
    began, sent = time.monotonic(), 0
    wrong: list[str] = []
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation in operations:
        answers = send(operation, wrong)
        sent += answers
        assert answers > 0, operation.label

    took_s = round(time.monotonic() - began, 1)
    print(f"{sent} requests to {len(operations)} routes in {took_s} s")  # noqa: T201 - the figure
    assert wrong == []
    assert sent >= len(operations) * min(EXAMPLES, 3)
    assert fleet.wait(fleet.submit())["status"] == "completed"
    assert fleet.gateway is not None
    assert fleet.gateway.poll() is None
    assert fleet.workers[0].poll() is None


def send(operation: Any, wrong: list[str]) -> int:
    """Send requests to a route; gives how many. What is wrong is noted, not raised."""
    sent = 0

    @settings(
        max_examples=EXAMPLES,
        derandomize=IN_SUITE,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=st.one_of(
            operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
            operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
        )
    )
    def one(case: Any) -> None:
        nonlocal sent
        answer = case.call()
        sent += 1
        if answer.status_code >= 500:
            wrong.append(f"{answer.status_code} {case.as_curl_command()} -> {answer.text[:300]}")

    one()
    return sent

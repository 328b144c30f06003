"""Does the description say all that callers need, and does its page need nothing from elsewhere?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from app.api.docs import CONTENT_SECURITY_POLICY
from app.api.tasks import REQUEST_BODY, decode_task
from app.config import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

pytestmark = pytest.mark.anyio


@pytest.fixture
async def description(client: httpx2.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/openapi.json")
    assert answer.status_code == 200
    return answer.json()


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


async def test_the_page_loads_from_this_service_only(client: httpx2.AsyncClient) -> None:
    page = await client.get("/docs")

    policy = page.headers["content-security-policy"]
    assert policy == CONTENT_SECURITY_POLICY
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert page.status_code == 200
    assert "script-src 'self';" in policy
    assert "://" not in page.text + policy
    assert not re.search(r"<script>|<style>|\son\w+=", page.text)
    assert len(loaded) == 3
    for path in loaded:
        assert (await client.get(f"/{path}")).status_code == 200


async def test_the_page_reads_the_description_it_is_served_with(
    client: httpx2.AsyncClient,
) -> None:
    script = await client.get("/docs/start.js")

    assert 'url: "openapi.json"' in script.text
    assert script.headers["content-type"].startswith("text/javascript")


async def test_every_reference_leads_somewhere(description: dict[str, Any]) -> None:
    schemas = description["components"]["schemas"]

    found = set(references(description))
    assert found
    assert {name.removeprefix("#/components/schemas/") for name in found} <= set(schemas)


async def test_every_route_is_described(description: dict[str, Any]) -> None:
    assert set(description["paths"]) == {
        "/",
        "/tasks",
        "/tasks/{task_id}",
        "/identity/token",
        "/v3/resources/search",
        "/catalog/{plan}",
        "/v2/resource_instances",
        "/v2/resource_instances/{crn}",
        "/health",
        "/health/live",
        "/health/ready",
        "/health/redis",
        "/health/celery",
        "/metrics",
        "/metrics.json",
        "/api/v1/backends",
        "/api/v1/backends/{name}/configuration",
        "/api/v1/backends/{name}/properties",
        "/api/v1/backends/{name}/status",
        "/api/v1/instance",
        "/api/v1/instances/usage",
        "/api/v1/jobs",
        "/api/v1/jobs/{job_id}",
        "/api/v1/jobs/{job_id}/cancel",
        "/api/v1/jobs/{job_id}/logs",
        "/api/v1/jobs/{job_id}/metrics",
        "/api/v1/jobs/{job_id}/results",
        "/api/v1/jobs/{job_id}/tags",
        "/api/v1/sessions",
        "/api/v1/sessions/{session_id}",
        "/api/v1/sessions/{session_id}/close",
        "/api/v1/versions",
        "/api/v1/workloads",
    }


async def test_refusals_are_described_as_problems(description: dict[str, Any]) -> None:
    answers = description["paths"]["/tasks"]["post"]["responses"]

    assert set(answers) == {"200", "400", "401", "404", "408", "413", "415", "422", "429", "503"}
    for status, answer in answers.items():
        if status != "200":
            assert list(answer["content"]) == ["application/problem+json"]


async def test_the_described_body_is_the_one_that_is_read(description: dict[str, Any]) -> None:
    body = description["paths"]["/tasks"]["post"]["requestBody"]

    fields = body["content"]["application/json"]["schema"]["properties"]
    assert body["required"]
    assert set(fields) == {"qc", "circuit", "shots", "seed", "backend", "tags"}


@pytest.mark.parametrize("name", ["qc", "circuit"])
def test_the_examples_are_accepted(name: str) -> None:
    example = REQUEST_BODY["content"]["application/json"]["examples"][name]["value"]

    assert decode_task(example, Settings(_env_file=None)).dialect == name

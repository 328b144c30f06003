"""The reference cannot rot: what is in the code is in the docs, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from app.config import Settings
from app.lua.keys import CANCEL_CHANNEL, DONE_CHANNEL, SCHEMA
from app.telemetry.metrics import METRICS
from tests.test_architecture import failures

from app import errors

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md")]


def rows(page: str) -> set[str]:
    """First cells of all table rows of a reference page, without their code marks."""
    text = (ROOT / "docs/reference" / page).read_text()
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


def settings(model: type[BaseModel] = Settings, prefix: str = "QFLEET_") -> dict[str, str]:
    """Every setting's name in the environment, and what it is described as."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= settings(kind, f"{prefix}{name.upper()}__")
        else:
            assert field.description, f"{name} is not described"
            found[f"{prefix}{name.upper()}"] = field.description
    return found


def test_every_setting_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/settings.md").read_text()
    assert rows("settings.md") == set(settings())
    for description in settings().values():
        assert description in text


def test_every_error_is_in_the_reference() -> None:
    assert rows("errors.md") == {error.code for error in failures(errors.ServiceError)} | {"internal_error"}


def test_every_key_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/redis-keys.md").read_text()
    assert rows("redis-keys.md") == {key.pattern for key in SCHEMA}
    for key in SCHEMA:
        assert f"| `{key.pattern}` | {key.type} | {key.content} |" in text
    assert f"`{DONE_CHANNEL}`" in text
    assert f"`{CANCEL_CHANNEL}`" in text


def test_every_metric_is_in_the_reference() -> None:
    assert rows("metrics.md") == {metric.full_name for metric in METRICS}


def test_every_variable_of_the_deployment_exists() -> None:
    known = set(settings()) | {"REDIS_HOST", "REDIS_PORT", "REDIS_DB", "REDIS_PASSWORD"}
    for page in ("README.md", ".env.docker", "docs/howto/containers.md"):
        named = set(re.findall(r"\bQFLEET_[A-Z_]+\b", (ROOT / page).read_text()))
        assert named - known - {"QFLEET_"} == set(), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_decision_has_a_number_of_its_own() -> None:
    numbers = [path.name[:4] for path in sorted((ROOT / "docs/adr").glob("*.md"))]
    assert numbers == [f"{i:04}" for i in range(1, len(numbers) + 1)]

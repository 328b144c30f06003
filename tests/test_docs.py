"""The reference cannot rot: what is in the code is in the docs, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import AliasChoices, BaseModel

from app import errors
from app.api.errors import status_of
from app.api.runtime.errors import number_of
from app.config import MIB, SECRETS, Settings
from app.lua.keys import CANCEL_CHANNEL, DONE_CHANNEL, SCHEMA
from app.telemetry.metrics import METRICS
from tests.test_architecture import failures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs/reference"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md")])


def rows_of(page: str) -> list[str]:
    """The rows of all tables of a reference page, without their heads."""
    text = (REFERENCE / page).read_text()
    return [line for line in text.splitlines() if line.startswith("| `")]


def default_of(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "one per core"
    value = field.default
    if value in (None, {}, ()):
        return "–"
    if isinstance(value, tuple):
        value = ",".join(value)
    if isinstance(value, float):
        value = f"{value:g}"
    large = isinstance(value, int) and value >= MIB and value % MIB == 0
    return f"`{value}`" + (f" ({value // MIB} MiB)" if large else "")


def settings_of(
    model: type[BaseModel] = Settings, prefix: str = "QFLEET_"
) -> Iterator[tuple[list[str], FieldInfo]]:
    """Every setting's names in the environment, ours first, and what it is; nested ones last."""
    nested = []
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested.append((field.annotation, f"{prefix}{name.upper()}__"))
        elif isinstance(alias, AliasChoices):
            yield [str(choice) for choice in alias.choices if str(choice).isupper()], field
        else:
            yield [f"{prefix}{name.upper()}"], field
    for inner, inner_prefix in nested:
        yield from settings_of(inner, inner_prefix)


def is_secret(names: list[str]) -> bool:
    return any(f"QFLEET_{setting.upper()}" in names for setting in SECRETS)


def status_row(error: type[errors.ServiceError]) -> str:
    status = status_of(error.__new__(error))
    told = issubclass(error, errors.JobFailure) and error is not errors.InvalidProgram
    meaning = (error.__doc__ or "").splitlines()[0].replace("``", "`")
    number = number_of(error)
    return (
        f"| `{error.code}` | {number} | {'–' if told else status.value}"
        f" | {meaning} | {error.remedy} |"
    )


def test_every_setting_is_in_the_reference() -> None:
    assert rows_of("settings.md") == [
        f"| {', '.join(f'`{name}`' for name in names)} | {default_of(field)} | {field.description} |"
        for names, field in settings_of()
    ]


def test_every_error_has_a_remedy_of_its_own() -> None:
    assert [
        error.code for error in failures(errors.ServiceError) if "remedy" not in vars(error)
    ] == []


def test_every_error_is_in_the_reference() -> None:
    rows = rows_of("errors.md")

    assert sorted(rows) == sorted(map(status_row, failures(errors.ServiceError)))


def test_every_key_is_in_the_reference() -> None:
    rows = rows_of("redis-keys.md")

    assert rows == [f"| `{key.pattern}` | {key.type} | {key.content} |" for key in SCHEMA]


def test_every_channel_is_in_the_reference() -> None:
    text = (REFERENCE / "redis-keys.md").read_text()

    assert f"`{DONE_CHANNEL}`" in text
    assert f"`{CANCEL_CHANNEL}`" in text


def test_every_metric_is_in_the_reference() -> None:
    assert rows_of("metrics.md") == [
        f"| `{metric.full_name}` | {metric.kind} | {', '.join(metric.labels) or '–'} | {metric.help} |"
        for metric in METRICS
    ]


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        ".env.docker",
        "docs/howto/containers.md",
        "docs/howto/keys.md",
    ],
)
def test_every_variable_that_people_are_told_of_exists(page: str) -> None:
    compose = (ROOT / "docker-compose.yaml").read_text()
    known = {name for names, _ in settings_of() for name in names}
    known |= {f"{name}_FILE" for names, _ in settings_of() for name in names if is_secret(names)}
    known |= set(re.findall(r"\$\{([A-Z_]+)", compose))

    told = set(re.findall(r"\b((?:QFLEET|REDIS)_[A-Z_]+[A-Z])\b", (ROOT / page).read_text()))

    assert told <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())

    missing = {
        target for target in targets if "://" not in target and not (page.parent / target).exists()
    }

    assert missing == set()


def test_every_decision_has_a_number_of_its_own() -> None:
    numbers = [path.name[:4] for path in sorted((ROOT / "docs/adr").glob("*.md"))]

    assert len(numbers) == len(set(numbers))


def test_every_target_of_make_that_people_are_told_of_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    for page in PAGES:
        told = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", page.read_text(), re.MULTILINE))
        assert {name for pair in told for name in pair if name} <= targets, page.name


def test_every_proof_of_a_guarantee_exists() -> None:
    text = (REFERENCE / "guarantees.md").read_text()
    proofs = re.findall(r"`(tests/[a-z_/]+\.py)(?:::(\w+))?", text)

    missing = {
        (path, name)
        for path, name in proofs
        if not (ROOT / path).exists() or (name and f"def {name}(" not in (ROOT / path).read_text())
    }

    assert len(proofs) > 20
    assert missing == set()

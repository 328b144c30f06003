"""Which settings do commands have? Those of the environment; what is wrong is told by name."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_settings import SettingsError

from app.config import Settings, secret_variables, variable_of, variables
from app.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

#: Longest value of a setting that is repeated.
SHOWN_CHARS = 64


def read_settings() -> Settings:
    """The settings of the environment.

    Raises:
        ConfigurationInvalid: one is not allowed; the message names it and says why.
    """
    try:
        return Settings()
    except ValidationError as exc:
        raise ConfigurationInvalid("; ".join(map(_fault, exc.errors()))) from exc
    except SettingsError as exc:
        whole = re.match('error parsing value for field "([a-z]+)"', str(exc))
        if whole is None:
            raise ConfigurationInvalid(str(exc)) from exc
        name = variable_of(whole[1])
        near = ", ".join([each for each in variables() if each.startswith(name)][:3])
        message = f"{name}: it is not JSON; set its parts instead: {near}, …"
        raise ConfigurationInvalid(message) from exc


def find_redis(settings: Settings) -> str:
    """Where Redis is: the configured one, or else that of the local stack, if it runs."""
    from app.local.valkey import running_url

    return settings.redis or running_url(settings.data / "valkey")


def _fault(fault: ErrorDetails) -> str:
    """One line about a variable: its name, what is wrong, and what stands in it."""
    name = variable_of(*map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, variables(), n=1)
        return f"{name}: there is no such setting" + (f"; {near[0]} is one" if near else "")
    text = f"{name}: {fault['msg'].removeprefix('Value error, ')}"
    given = fault["input"]
    shown = isinstance(given, str) and len(given) <= SHOWN_CHARS and name not in secret_variables()
    return f"{text}; it is {given!r}" if shown else text

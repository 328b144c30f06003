"""Where is the text of each verb? Reads the Lua files and puts the shared prelude in front."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from app.lua.keys import BUCKETS_S, DEFAULT_PLAN, WAKEUP_MARK

_FOLDER = Path(__file__).parent


@cache
def source(verb: str) -> str:
    """The whole script of a verb: its flags, the constants, the prelude, the verb itself."""
    flags, _, body = (_FOLDER / f"{verb}.lua").read_text().partition("\n")
    bounds = ", ".join(str(round(bound * 1000, 3)) for bound in BUCKETS_S)
    constants = (
        f"local BUCKETS_MS = {{{bounds}}}\nlocal WAKEUP_MARK = '{WAKEUP_MARK}'\n"
        f"local DEFAULT_PLAN = '{DEFAULT_PLAN}'\n"
    )
    return f"{flags}\n{constants}{(_FOLDER / 'prelude.lua').read_text()}\n{body}"

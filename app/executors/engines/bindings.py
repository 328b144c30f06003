"""How is cuStateVec reached? Through NVIDIA's bindings, without the rest of cuQuantum Python.

``import cuquantum`` wants CuPy, nvmath and five sister libraries, none of which is used here. This
file is the only one that knows how the package is laid out; it is pinned, and a test compares the
signatures of what is called.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGE = "cuquantum"
_BINDINGS = "cuquantum.bindings"


@dataclass(frozen=True, kw_only=True)
class Bindings:
    """The two modules; both take addresses and sequences of integers, and raise on errors."""

    #: the plain interface: one call, one operation; and batches of small states.
    plain: Any
    #: the extended one: states that own their memory, and an updater that fuses gates.
    ex: Any

    @property
    def error(self) -> type[Exception]:
        """What every failed call raises."""
        kind: type[Exception] = self.plain.cuStateVecError
        return kind


@cache
def load() -> Bindings:
    """Import the bindings; the library itself is loaded with the first call.

    Raises:
        ImportError: they are not installed.
    """
    if _PACKAGE not in sys.modules:
        found = find_spec(_PACKAGE)
        places = found.submodule_search_locations if found is not None else None
        if not places:
            raise ImportError("cuquantum-python-cu13 is not installed")
        folder = Path(next(iter(places)))
        for name, path in ((_PACKAGE, folder), (_BINDINGS, folder / "bindings")):
            package = ModuleType(name)
            package.__path__ = [str(path)]
            sys.modules[name] = package
    return Bindings(
        plain=import_module(f"{_BINDINGS}.custatevec"),
        ex=import_module(f"{_BINDINGS}.custatevecEx"),
    )

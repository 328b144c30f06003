"""How much of the deep tests is run? A tenth in every run, all of it with ``QFLEET_TEST_DEEP=1``."""

from __future__ import annotations

import os

#: whether this is ``make test-deep``.
DEEP = os.environ.get("QFLEET_TEST_DEEP") == "1"


def depth(usual: int, deep: int) -> int:
    """Of two counts, the one for this run."""
    return deep if DEEP else usual

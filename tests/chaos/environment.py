"""An environment that sees the packages of this one, and has the executor ``poison``."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

from . import poison

if TYPE_CHECKING:
    from pathlib import Path


def make(folder: Path) -> str:
    """Make it there; gives its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    (packages / "parent.pth").write_text(sysconfig.get_path("purelib"))
    poison.install(packages)
    return str(folder / "bin" / "python")

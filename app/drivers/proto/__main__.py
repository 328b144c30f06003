"""How are the modules of the wire made? ``python -m app.drivers.proto [FOLDER]``."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

#: Where import paths of the generated modules begin.
ROOT = Path(__file__).parents[3]
SOURCE = "app/drivers/proto/driver_manager.proto"


def generate(folder: Path) -> int:
    """Write the modules below ``folder``; gives protoc's exit status."""
    from grpc_tools import protoc  # noqa: PLC0415 - a tool of developers

    included = resources.files("grpc_tools") / "_proto"
    return int(
        protoc.main(
            [
                "protoc",
                f"--proto_path={ROOT}",
                f"--proto_path={included}",
                f"--python_out={folder}",
                f"--pyi_out={folder}",
                f"--grpc_python_out={folder}",
                SOURCE,
            ]
        )
    )


if __name__ == "__main__":
    sys.exit(generate(Path(sys.argv[1]) if sys.argv[1:] else ROOT))

"""A local stack for Qiskit clients, and the environments that they run in."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.auth.keys import new_key
from tests.local_stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CLIENTS = Path(sys.prefix) / "clients"
SCENARIO = Path(__file__).parent / "scenario.py"
SCENARIO_TIMEOUT_S = 240


class Service:
    """A stack that asks for keys; its owner has two instances."""

    def __init__(self, stack: Stack, key: str, home: Path) -> None:
        self.stack = stack
        self.key = key
        self.url = f"http://127.0.0.1:{stack.port}"
        self.home = home

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """A request without a client; gives status and answer."""
        return self.stack.request(method, path, body, Authorization=f"apikey {self.key}")

    def environment(self) -> dict[str, str]:
        """What a client's process gets: what docs/howto/connect.md says, nothing from outside."""
        return {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "IAM_URL": self.url,
            "GLOBAL_SEARCH_URL": self.url,
            "GLOBAL_CATALOG_URL": f"{self.url}/catalog",
            "QISKIT_IBM_URL": f"{self.url}/experimental/api/v1",
            "QISKIT_IBM_TOKEN": self.key,
        }

    def run(
        self, version: str, *arguments: str, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python program in the environment of a client."""
        return subprocess.run(
            [python_of(version), *arguments],
            env=self.environment(),
            cwd=self.home,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def run_scenario(self, version: str) -> dict[str, dict[str, Any]]:
        """Call → what became of it, with this client."""
        done = self.run(version, str(SCENARIO), timeout_s=SCENARIO_TIMEOUT_S)
        if self.stack.request("GET", "/health")[0] != http.client.OK:
            raise RuntimeError("the stack is not what it was before the scenario")
        if done.returncode:
            raise RuntimeError(f"the scenario did not come to its end: {done.stderr}")
        outcomes = [json.loads(line) for line in done.stdout.splitlines()]
        return {outcome["call"]: outcome for outcome in outcomes}


@contextlib.contextmanager
def running_service(folder: Path) -> Iterator[Service]:
    """A service of its own, with one slot."""
    data, home, key = folder / "data", folder / "home", new_key()
    home.mkdir()
    stack = Stack(data, QFLEET_AUTH="on", QFLEET_BOOTSTRAP_KEY=key)
    try:
        stack.wait_for("ready: ")
        subprocess.run(
            [
                *(sys.executable, "-m", "app", "keys", "create"),
                *("--owner", "admin", "--instance", "second"),
            ],
            env=os.environ | {"QFLEET_DATA": str(data)},
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        yield Service(stack, key, home)
    finally:
        stack.close()


def python_of(version: str) -> str:
    """The Python of a client's environment.

    Raises:
        FileNotFoundError: it has not been made; the message says how.
    """
    folder = CLIENTS / version
    if not (folder / "made").exists():
        made = os.path.relpath(folder / "made", ROOT)
        raise FileNotFoundError(f"there is no client {version} here: make {made}")
    return str(folder / "bin/python")

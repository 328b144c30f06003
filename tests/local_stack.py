"""A local stack, as a person starts it: for tests of the stack, and of clients that talk to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil

from app.local.addresses import free_port
from app.local.stack import BELL

if TYPE_CHECKING:
    from pathlib import Path


class Stack:
    """A stack as a person starts it, in a process of its own."""

    def __init__(self, data: Path, *, python: str = sys.executable, **settings: str) -> None:
        self.port = free_port()
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("QFLEET_", "REDIS_")) and name != "BROKER_URL"
        }
        own = {"QFLEET_DATA": str(data), "QFLEET_PORT": str(self.port), "QFLEET_SLOTS": "1"}
        # Its ports are the same for all; tests/drivers start it on others.
        own["QFLEET_DRIVERS"] = "off"
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [python, "-m", "app", "up"],
            env=clean | own | settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, text: str) -> None:
        """Read status lines up to one with this text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if text in line:
                return
        raise AssertionError(f"it ended without {text!r}: {self.said}")

    def processes(self) -> list[psutil.Process]:
        """Everything that belongs to the stack, children of children too."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def part(self, name: str) -> psutil.Process:
        """The process of a part: valkey-server, serve or celery."""
        word = re.compile(rf"(^|[ /]){name}( |$)")
        parts = psutil.Process(self.process.pid).children()
        return next(part for part in parts if word.search(" ".join(part.cmdline())))

    def request(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            content = None if body is None else json.dumps(body)
            declared = {"Content-Type": "application/json"} | headers
            connection.request(method, path, content, declared)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def run_bell(self) -> tuple[str, dict[str, Any]]:
        """Run a circuit; gives the task's id and what became of it."""
        status, task = self.request("POST", "/tasks", {"circuit": BELL, "shots": 1000, "seed": 1})
        assert status == 200, task
        return task["task_id"], self.read(task["task_id"])

    def read(self, task_id: str) -> dict[str, Any]:
        status, task = self.request("GET", f"/tasks/{task_id}?wait=20")
        assert status == 200, task
        return dict(task)

    def interrupt(self) -> int:
        """Ctrl-C; gives the exit status."""
        self.process.send_signal(signal.SIGINT)
        self.said += self.process.communicate(timeout=20)[0].splitlines(keepends=True)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

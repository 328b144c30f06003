"""How does the load reach the gateway? By a keep-alive connection that costs little.

The load shares its cores with what it measures; a general client costs more than a Bell task.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self


class Connection:
    """One connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to the gateway on this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and JSON of the answer."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: benchmark\r\nContent-Length: {len(content)}\r\n"
        if content:
            head += "Content-Type: application/json\r\n"
        self._writer.write(head.encode() + b"\r\n" + content)
        raw = await self._reader.readuntil(b"\r\n\r\n")
        status_line, *lines = raw.decode().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        answer = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return int(status_line.split()[1]), json.loads(answer) if answer else None

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await self._writer.wait_closed()

"""How does the load reach the gateway? By a keep-alive connection that costs little.

The load shares its cores with what it measures; a general client costs more than a Bell task.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Self

import orjson

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)")


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
        content = b"" if body is None else orjson.dumps(body)
        kind = "Content-Type: application/json\r\n" if content else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: benchmark\r\n{kind}"
        head += f"Content-Length: {len(content)}\r\n\r\n"
        self._writer.write(head.encode() + content)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(answer)
        body_bytes = await self._reader.readexactly(int(length[1])) if length else b""
        return int(answer[9:12]), orjson.loads(body_bytes) if body_bytes else None

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await self._writer.wait_closed()

"""A line that can be made bad: a TCP proxy on loopback, between a process and Valkey.

``slow`` delays every piece of data, ``stall`` holds all of it back (a half-open line: it stands, and
nothing comes), ``deafen`` throws the answers away (what was asked has happened, and nobody hears of
it), ``cut`` ends all connections. ``heal`` makes the line good again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READ_BYTES = 1 << 16
START_S = 5.0


class Proxy:
    """One proxy, in a thread of its own. Its methods may be called from any thread."""

    def __init__(self, target_port: int) -> None:
        """Listen on a free port and pass on to this one."""
        self.port = 0
        self.connections = 0
        self._target_port = target_port
        self._flows = asyncio.Event()
        self._stopped = asyncio.Event()
        self._started = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving = 0
        self._latency_s = 0.0
        self._is_deaf = False
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), name="proxy", daemon=True
        )
        self._thread.start()
        assert self._started.wait(START_S), "the proxy did not start"

    def slow(self, latency_s: float) -> None:
        """Delay every piece of data by so much, in both directions."""
        self._latency_s = latency_s

    def stall(self) -> None:
        """Hold everything back until ``heal``; connections stand, and more can be made."""
        self._call(self._flows.clear)

    def deafen(self) -> None:
        """Pass requests on, and throw the answers away."""
        self._is_deaf = True

    def cut(self) -> None:
        """End all connections; new ones are as good as the line is."""
        self._call(self._cut)

    def heal(self) -> None:
        """Make the line good again; what a deaf line has lost is lost, so it is cut first."""
        self._latency_s = 0.0
        if self._is_deaf:
            self._is_deaf = False
            self.cut()
        self._call(self._flows.set)

    def close(self) -> None:
        """End the proxy and all its connections."""
        self._call(self._stopped.set)
        self._thread.join(START_S)

    # --- in the loop ------------------------------------------------------------------------------

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._flows.set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            self._started.set()
            await self._stopped.wait()
        # Whoever stands in a stall goes on, and finds its line cut.
        self._flows.set()
        while self._serving:
            self._cut()
            await asyncio.sleep(0)

    def _call(self, what: Callable[[], object]) -> None:
        done = threading.Event()

        def call() -> None:
            what()
            done.set()

        self._loop.call_soon_threadsafe(call)
        assert done.wait(START_S), "the proxy does not answer"

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._serving += 1
        try:
            with self._cuttable(writer):
                await self._connect(reader, writer)
        finally:
            self._serving -= 1

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flows.wait()
        try:
            answers, requests = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            # The target is away: the client's line is cut, as it would be without us.
            return
        with self._cuttable(requests):
            both = [
                asyncio.ensure_future(self._pass_on(reader, requests, answers=False)),
                asyncio.ensure_future(self._pass_on(answers, writer, answers=True)),
            ]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for direction in both:
                direction.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    @contextlib.contextmanager
    def _cuttable(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                await self._flows.wait()
                if self._latency_s:
                    await asyncio.sleep(self._latency_s)
                if answers and self._is_deaf:
                    continue
                writer.write(data)
                await writer.drain()

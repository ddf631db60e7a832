"""A TCP proxy that can be made to fail the ways a network does, between the platform's processes and a server.

It runs on a thread of its own; every method may be called from any other.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

When = Literal["before", "after"]

CHUNK = 65_536
# How long a caller waits for the proxy's own thread, which never waits for anybody.
PATIENCE_SECONDS = 10.0


class _Link:
    """One client's connection and the one to the server behind it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server

    def cut(self) -> None:
        for writer in (self.client, self.server):
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once; the other side sees a reset, as from a machine that went away, and no orderly end."""
    if connection := writer.get_extra_info("socket"):
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Proxy:
    """Listens on a port of its own and passes everything on to ``target``, while it is well.

    ``cut``: every connection is reset and new ones are refused at once. ``stall``: nothing passes, what arrives is kept and
    passes after ``heal``. ``drop``: half-open, what arrives is thrown away, and such a connection is reset by ``heal``.
    ``cut_at``: the connection that sends the n-th packet with these bytes is reset, before it reaches the server or after.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.cuts_made = 0  # connections reset by cut_at
        self._links: set[_Link] = set()
        self._mode = "well"
        self._is_open = asyncio.Event()
        self._watched: tuple[bytes, When] | None = None
        self._to_pass = 0
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name=f"proxy-{target}", daemon=True)
        self._thread.start()
        started.wait(PATIENCE_SECONDS)

    def cut(self) -> None:
        """Reset every connection, and every new one at once, until ``heal``."""
        self._do(self._change, "cut")
        self._do(self._cut_all)

    def stall(self) -> None:
        """Pass nothing on, in either direction, until ``heal``; connections are accepted."""
        self._do(self._change, "stall")

    def drop(self) -> None:
        """Throw away whatever arrives from either side, until ``heal``, which resets what was connected meanwhile."""
        self._do(self._change, "drop")

    def reset(self) -> int:
        """Reset every connection once; new ones are served. How many it were."""
        return int(self._do(self._cut_all))

    def cut_at(self, wanted: bytes, nth: int = 1, when: When = "after") -> None:
        """Reset the connection whose client sends the n-th packet (from now) that contains ``wanted``: ``after`` it has
        reached the server, whose answer is lost; or ``before``, so that it never does."""

        def watch() -> None:
            self._watched, self._to_pass = (wanted, when), nth

        self._do(watch)

    def heal(self) -> None:
        """Pass everything on again; forget what was to be cut."""
        self._do(self._heal)

    def close(self) -> None:
        self._do(self._cut_all)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)

    def _do(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Do it on the proxy's thread and wait until it is done."""

        async def work() -> Any:
            return action(*arguments)

        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(PATIENCE_SECONDS)

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._is_open.set()
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _change(self, mode: str) -> None:
        self._mode = mode
        if mode == "stall":
            self._is_open.clear()
        else:
            self._is_open.set()

    def _heal(self) -> None:
        was, self._watched = self._mode, None
        self._change("well")
        if was == "drop":
            self._cut_all()

    def _cut_all(self) -> int:
        links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "cut":
            _reset(writer)
            return
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, back_writer)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pass(reader, back_writer, link, is_request=True),
                self._pass(back_reader, writer, link, is_request=False),
            )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            link.cut()
            self._links.discard(link)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link, *, is_request: bool
    ) -> None:
        while data := await reader.read(CHUNK):
            if not self._is_open.is_set():
                await self._is_open.wait()
            if self._mode == "drop":
                continue
            cut = self._is_cut_by(data) if is_request else None
            if cut != "before":
                writer.write(data)
                await writer.drain()
            if cut is not None:
                self.cuts_made += 1
                if cut == "after":
                    # The server acts on it; its answer is what gets lost.
                    _reset(link.client)
                    await asyncio.sleep(0.05)
                link.cut()
                return
        # One side has ended: pass that on once what it said is through.
        with suppress(OSError):
            writer.close()

    def _is_cut_by(self, data: bytes) -> When | None:
        if self._watched is None or self._watched[0] not in data:
            return None
        self._to_pass -= 1
        if self._to_pass > 0:
            return None
        when, self._watched = self._watched[1], None
        return when

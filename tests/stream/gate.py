"""A way to a service that a test can shut: connections through it are cut, and nobody gets in until it is opened again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Gate:
    """Forwards TCP to ``url``'s host and port; ``through`` is that URL by way of the gate."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname or "127.0.0.1", parts.port or 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._is_open, self._is_stalled = True, False
        port = self._listening.getsockname()[1]
        self.through = url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{port}")
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        self._is_open = False
        for pair in self._pairs:
            self._cut(pair)
        self._pairs.clear()

    def open(self) -> None:
        self._is_open = True

    def stall(self) -> None:
        """Keep every connection, and let nothing through any more."""
        self._is_stalled = True

    def close(self) -> None:
        self.shut()
        self._listening.close()

    @staticmethod
    def _cut(pair: tuple[socket.socket, socket.socket]) -> None:
        for one in pair:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                client, _ = self._listening.accept()
                if not self._is_open:
                    client.close()
                    continue
                pair = client, socket.create_connection(self._target)
                self._pairs.append(pair)
                for source, target in (pair, pair[::-1]):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while (data := source.recv(65536)) and not self._is_stalled:
                target.sendall(data)
        if not self._is_stalled:
            self._cut((source, target))


@contextmanager
def gate_to(url: str) -> Iterator[Gate]:
    gate = Gate(url)
    try:
        yield gate
    finally:
        gate.close()

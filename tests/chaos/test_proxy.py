"""The proxy passes on what it is given, and fails in each way only when it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from chaos.proxy import Proxy
from tests.workers import wait_until


class Echo:
    """A server that answers every packet with itself, and keeps what it got."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(1000):
                self.got.append(data)
                connection.sendall(data)
        except OSError:
            pass


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.socket.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    made = Proxy(echo.socket.getsockname()[1])
    yield made
    made.close()


def connected(proxy: Proxy, patience: float = 5) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=patience)


def asked(client: socket.socket, words: bytes) -> bytes:
    client.sendall(words)
    return client.recv(1000)


def test_it_passes_on_both_ways(proxy: Proxy) -> None:
    with connected(proxy) as client:
        assert asked(client, b"hello") == b"hello"


def test_a_cut_resets_who_is_connected_and_refuses_who_comes_until_it_is_healed(proxy: Proxy) -> None:
    with connected(proxy) as client:
        assert asked(client, b"hello") == b"hello"
        proxy.cut()
        with pytest.raises(ConnectionError):
            client.recv(1)
    with pytest.raises(ConnectionError), connected(proxy) as client:
        client.recv(1)

    proxy.heal()

    with connected(proxy) as client:
        assert asked(client, b"again") == b"again"


def test_a_reset_cuts_each_connection_once(proxy: Proxy) -> None:
    with connected(proxy) as client:
        assert asked(client, b"hello") == b"hello"
        assert proxy.reset() == 1
        with pytest.raises(ConnectionError):
            client.recv(1)
    with connected(proxy) as client:
        assert asked(client, b"again") == b"again"


def test_a_stall_holds_everything_back_until_it_is_healed(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy, patience=0.3) as client:
        assert asked(client, b"hello") == b"hello"
        proxy.stall()
        with pytest.raises(TimeoutError):
            asked(client, b"anybody?")
        assert echo.got == [b"hello"]

        proxy.heal()

        client.settimeout(5)
        assert client.recv(1000) == b"anybody?"


def test_a_half_open_connection_swallows_what_it_gets_and_is_reset_when_healed(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy, patience=0.3) as client:
        assert asked(client, b"hello") == b"hello"
        proxy.drop()
        with pytest.raises(TimeoutError):
            asked(client, b"anybody?")

        proxy.heal()

        client.settimeout(5)
        with pytest.raises(ConnectionError):
            client.recv(1)
    assert echo.got == [b"hello"]


def test_it_cuts_after_the_nth_packet_with_these_words_has_arrived(proxy: Proxy, echo: Echo) -> None:
    proxy.cut_at(b"COMMIT", nth=2)
    with connected(proxy) as client:
        assert asked(client, b"BEGIN") == b"BEGIN"
        assert asked(client, b"COMMIT") == b"COMMIT"
        with pytest.raises(ConnectionError):
            asked(client, b"and COMMIT")
    wait_until(lambda: echo.got == [b"BEGIN", b"COMMIT", b"and COMMIT"], "the packet to arrive")
    assert proxy.cuts_made == 1
    with connected(proxy) as client:
        assert asked(client, b"COMMIT") == b"COMMIT"


def test_it_cuts_before_such_a_packet_arrives(proxy: Proxy, echo: Echo) -> None:
    proxy.cut_at(b"COMMIT", when="before")
    with connected(proxy) as client, pytest.raises(ConnectionError):
        asked(client, b"COMMIT")
    assert echo.got == []

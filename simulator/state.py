"""What outlives the simulator: a file that knows every change before anybody is told of it.

A line is one step (a request, or a walk of the market): the market time and an image of each row that the step changed,
as it then was. A row's last image counts, so reading back is exact, whatever order things happened in; a last line that
was cut off by a kill is a step that nobody was told of, and is dropped. A long file is rewritten, shorter, on opening.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from simulator.exchange import Exchange
from simulator.state_rows import Image, Reader, images_of, snapshot

FORMAT = 2
REWRITE_BEYOND_LINES = 20_000

_BEGINNING = b'{"r3edge_simulator_state":'  # of a file of ours, that its first line may have been cut off in

_encode = json.JSONEncoder(check_circular=False, separators=(",", ":"), default=str).encode


class StateUnusable(Exception):
    """A state file that cannot be used, in one line."""


class StateFile:
    """One simulator's file, locked for as long as it is open. ``start_ms`` is None while it is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._exchange: Exchange | None = None
        self._pending = b""
        self._known = (-1, -1)  # the changes of settings and clock that the file knows
        try:
            self._file = _open_locked(path)
            self._steps = _read_steps(self._file, path)
        except OSError as error:
            raise StateUnusable(f"--state: cannot use {path}: {error.strerror}") from None
        self._head: dict[str, Any] = self._steps.pop(0) if self._steps else {}
        self.start_ms: int | None = self._head.get("start_ms")

    def attach(self, exchange: Exchange, start_ms: int, made_of: dict[str, Any]) -> None:
        """Bring ``exchange``, freshly made, to what the file says, and keep its every step from now on."""
        self._exchange = exchange
        for name, value in self._head.get("made_of", made_of).items():
            if made_of.get(name) != value:
                raise StateUnusable(f"{name}: wanted {value} as {self.path} was begun with, was {made_of.get(name)}")
        head = {"r3edge_simulator_state": FORMAT, "start_ms": start_ms, "made_of": made_of}
        if self._head:
            exchange.books.id_prefix = self._head["id_prefix"]
            exchange.futures.books.id_prefix = self._head["futures_id_prefix"]
            self._read_back(exchange)
            exchange.books.changed.clear()
            exchange.futures.books.changed.clear()
        self._head = {
            **head,
            "id_prefix": exchange.books.id_prefix,
            "futures_id_prefix": exchange.futures.books.id_prefix,
        }
        exchange.listeners.insert(0, self.keep)  # before anybody else is told
        if not self._steps:
            self._write(_line(self._head))
        elif len(self._steps) > REWRITE_BEYOND_LINES:
            self._rewrite()
        self._steps = []
        self.keep()

    def keep(self) -> None:
        """Write what changed since the last time. Raises OSError when that fails; the next call tries again."""
        assert self._exchange is not None, "a state file keeps nothing before attach"
        exchange = self._exchange
        images = images_of(exchange.books.changed, "") + images_of(exchange.futures.books.changed, "f.")
        changes = (exchange.settings.changes, exchange.clock.changes)
        if changes != self._known:
            images += _settings_images(exchange)
            self._known = changes
        if images or self._pending:
            self._write(_line([exchange.advanced_to_ms, *images]) if images else b"")

    def close(self) -> None:
        """Let go of the file; the end of the process does the same."""
        os.close(self._file)

    # -- reading ------------------------------------------------------------------------------------------------

    def _read_back(self, exchange: Exchange) -> None:
        last: dict[tuple[Any, ...], Image] = {}
        now_ms = self._head["start_ms"]
        for number, step in enumerate(self._steps):
            now_ms = max(now_ms, step[0])
            for image in step[1:]:
                last[_identity(image, number)] = image
        try:
            Reader(exchange).read(list(last.values()), now_ms)
        except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
            raise StateUnusable(f"--state: {self.path} is damaged ({type(error).__name__}: {error})") from None

    # -- writing ------------------------------------------------------------------------------------------------

    def _write(self, line: bytes) -> None:
        self._pending += line
        while self._pending:
            self._pending = self._pending[os.write(self._file, self._pending) :]

    def _rewrite(self) -> None:
        """The same state as few lines as it needs, in the file's place at once or not at all."""
        assert self._exchange is not None
        half = self.path.with_name(self.path.name + ".new")
        half.unlink(missing_ok=True)
        new, old = _open_locked(half), self._file
        self._file, at_ms = new, self._exchange.advanced_to_ms
        self._write(_line(self._head))
        for image in snapshot(self._exchange):
            self._write(_line([at_ms, image]))
        self._write(_line([at_ms, *_settings_images(self._exchange)]))
        self._known = (self._exchange.settings.changes, self._exchange.clock.changes)
        half.replace(self.path)
        os.close(old)


def _open_locked(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise StateUnusable(f"--state: wanted a file of its own, but another simulator uses {path}") from None
    return file


def _read_steps(file: int, path: Path) -> list[Any]:
    """The lines, parsed; the rest of a last one that was cut off is removed from the file."""
    with os.fdopen(os.dup(file), "rb") as stream:
        content = stream.read()
    whole = content.rfind(b"\n") + 1
    steps = []
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            steps.append(json.loads(line))
        except ValueError:
            raise StateUnusable(f"--state: {path} is damaged in line {number}") from None
    is_ours = isinstance(steps[0], dict) if steps else _BEGINNING.startswith(content[: len(_BEGINNING)])
    if not is_ours or (steps and steps[0].get("r3edge_simulator_state") != FORMAT):
        raise StateUnusable(f"--state: wanted a simulator's state of format {FORMAT} in {path}")
    if whole != len(content):
        os.ftruncate(file, whole)
    return steps


def _line(value: Any) -> bytes:
    return _encode(value).encode() + b"\n"


def _settings_images(exchange: Exchange) -> list[Image]:
    return [["settings", exchange.settings.wire()], ["clock", *exchange.clock.anchor()]]


def _identity(image: Image, step: int) -> tuple[Any, ...]:
    """Which row an image is of; the rows that never change have no identity and all count."""
    if image[0] in ("settings", "clock"):
        return (image[0],)
    kind = image[0].removeprefix("f.")
    is_one = kind in ("order", "stop", "fill", "account", "listing", "position", "funding")
    return (image[0], image[1]) if is_one else (image[0], step, id(image))

"""Scripted failures: which requests fail, before or after the exchange acted on them, and how.

"before" means that the exchange never sees the request; "after" means that it acts and its answer is lost or replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from random import Random
from typing import Any

KINDS = ("hang", "drop", "http", "body", "html", "empty", "truncated", "code", "delay")

HTML = "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking your browser</body></html>"
WHENS = ("before", "after")


@dataclass(slots=True)
class Fault:
    """One script. A pattern that is None matches everything; ``remaining`` None never runs out.

    Kinds: hang (no answer for ``seconds``, or until the client gives up, then the connection drops), drop (the
    connection is cut), http (``status`` with ``body``), body (status 200 with ``body``), html (a page where JSON is
    wanted), empty (no body), truncated (half of the true answer; nothing of it before acceptance), code (an error of the
    exchange's: ``code``, ``msg``), delay (``seconds`` late, otherwise as usual). ``skip`` lets so many matching requests
    pass first; ``chance`` hits only that part of them, by a seeded die.
    """

    number: int
    kind: str
    when: str = "before"
    method: str | None = None
    path: str | None = None
    client_oid: str | None = None
    api_key: str | None = None
    remaining: int | None = 1
    status: int = 200
    body: str = ""
    code: str = "500000"
    msg: str = "Internal Server Error"
    seconds: float | None = None
    skip: int = 0
    chance: float = 1.0
    hits: int = 0

    def matches(self, method: str, path: str, client_oid: str, api_key: str) -> bool:
        return (
            self.method in (None, method)
            and (self.path is None or fnmatchcase(path, self.path))
            and self.client_oid in (None, client_oid)
            and self.api_key in (None, api_key)
        )

    def wire(self) -> dict[str, Any]:
        return {
            "id": self.number,
            "kind": self.kind,
            "when": self.when,
            "method": self.method,
            "path": self.path,
            "clientOid": self.client_oid,
            "apiKey": self.api_key,
            "remaining": self.remaining,
            "skip": self.skip,
            "chance": self.chance,
            "hits": self.hits,
        }


@dataclass(slots=True)
class FaultScript:
    """The faults that are set, oldest first; the first that matches a request is used up by it."""

    faults: list[Fault] = field(default_factory=list)
    made: int = 0
    die: Random = field(default_factory=lambda: Random(7))  # noqa: S311 - a die of a game, seeded to be repeatable

    def add(self, body: Mapping[str, Any]) -> Fault:
        """Set the fault that ``body`` describes; ValueError says what is wrong with it."""
        kind, when = body.get("kind"), body.get("when", "before")
        if kind not in KINDS:
            raise ValueError(f"wanted kind to be one of {', '.join(KINDS)}, was {kind!r}")
        if when not in WHENS:
            raise ValueError(f"wanted when to be before or after, was {when!r}")
        unknown = set(body) - _FIELDS
        if unknown:
            raise ValueError(f"wanted fields among {', '.join(sorted(_FIELDS))}, was {', '.join(sorted(unknown))}")
        seconds = _number(body, "seconds", None)
        if kind == "delay" and seconds is None:
            raise ValueError("wanted seconds for a delay, was nothing")
        count = _number(body, "count", 1)
        self.made += 1
        fault = Fault(
            number=self.made,
            kind=kind,
            when=when,
            method=_text(body, "method"),
            path=_text(body, "path"),
            client_oid=_text(body, "clientOid"),
            api_key=_text(body, "apiKey"),
            remaining=None if count is None else int(count),
            status=int(_number(body, "status", 500 if kind == "http" else 200) or 0),
            body=_text(body, "body") or (HTML if kind == "html" else ""),
            code=_text(body, "code") or "500000",
            msg=_text(body, "msg") or "Internal Server Error",
            seconds=seconds,
            skip=int(_number(body, "skip", 0) or 0),
            chance=float(_number(body, "chance", 1) or 0),
        )
        if not 100 <= fault.status <= 599:
            raise ValueError(f"wanted an HTTP status, was {fault.status}")
        self.faults.append(fault)
        return fault

    def clear(self) -> int:
        """Forget all faults; how many there were."""
        number = len(self.faults)
        self.faults.clear()
        return number

    def take(self, method: str, path: str, client_oid: str, api_key: str) -> Fault | None:
        """The fault that this request meets, counted down."""
        for fault in self.faults:
            if fault.matches(method, path, client_oid, api_key):
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.chance < 1 and self.die.random() >= fault.chance:
                    continue
                fault.hits += 1
                if fault.remaining is not None:
                    fault.remaining -= 1
                    if fault.remaining <= 0:
                        self.faults.remove(fault)
                return fault
        return None


_FIELDS = {
    *("kind", "when", "method", "path", "clientOid", "apiKey", "count"),
    *("status", "body", "code", "msg", "seconds", "skip", "chance"),
}


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"wanted {name} to be text, was {value!r}")
    return value


def _number(body: Mapping[str, Any], name: str, default: float | None) -> float | None:
    value = body.get(name, default)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
        raise ValueError(f"wanted {name} to be a number, was {value!r}")
    return value

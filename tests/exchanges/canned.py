"""Answers from a table instead of a network, at the true addresses of a venue: what is asked is noted, what is not in the
table cannot be reached."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from exchanges.ccxt_gateway import CcxtGateway
from exchanges.credentials import Credentials


@dataclass(frozen=True)
class Asked:
    """One request as it left us."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: str

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.url).query))

    @property
    def form(self) -> dict[str, Any]:
        """What it carries, as JSON or as a form."""
        return dict(json.loads(self.body)) if self.body.startswith("{") else dict(parse_qsl(self.body))


Answer = Callable[[Asked], Any] | Any


@dataclass
class Canned(BaseAdapter):
    """``answers``: "GET /path/*" to a JSON value, a text, or a function of what was asked; first match counts."""

    answers: dict[str, Answer] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def gateway(self, ccxt_id: str, *infos: dict[str, Any], base_url: str = "") -> CcxtGateway:
        """A gateway that reaches this table only, knowing the markets ``infos``."""
        gateway = CcxtGateway(
            ccxt_id, base_url, Credentials("key-of-bob", "canary-secret-of-bob", "canary-words-of-bob")
        )
        for scheme in ("https://", "http://"):
            gateway._venue.session.mount(scheme, self)
        gateway._venue.enableRateLimit = False
        gateway.know((info["symbol"], info) for info in infos)
        return gateway

    def lines(self) -> list[str]:
        return [f"{one.method} {one.path}" for one in self.asked]

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        body = request.body.decode() if isinstance(request.body, bytes) else str(request.body or "")
        one = Asked(str(request.method), str(request.url), dict(request.headers), body)
        self.asked.append(one)
        line = f"{one.method} {one.path}"
        pattern = next((pattern for pattern in self.answers if fnmatchcase(line, pattern)), None)
        if pattern is None:
            raise requests.exceptions.ConnectionError(f"nothing answers {line}")
        answer = self.answers[pattern]
        answer = answer(one) if callable(answer) else answer
        response = requests.Response()
        response.status_code = self.statuses.get(pattern, 200)
        response.reason = "canned"
        response.url = str(request.url)
        response.request = request
        is_text = isinstance(answer, str)
        response._content = answer.encode() if is_text else json.dumps(answer).encode()
        kind = "text/html" if is_text and answer.lstrip().startswith("<") else "application/json"
        response.headers = CaseInsensitiveDict({"Content-Type": kind, **self.headers})
        return response

    def close(self) -> None:
        pass

"""The demo's way to ask: JSON over HTTP, asked again until the platform, of which anything may be restarting, answers."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp

ANSWER_LIMIT_SECONDS = 45

Row = dict[str, Any]


class DemoFailed(Exception):
    """Something did not happen that should have; the message says what."""


class Refused(DemoFailed):
    """The platform answered, and the answer was no."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Client:
    """JSON over HTTP, patient with a server that is being restarted."""

    def __init__(self, http: aiohttp.ClientSession, base: str, token: str = "") -> None:
        self._http, self.base = http, base.rstrip("/")
        self._headers = {"Authorization": f"Token {token}"} if token else {}

    async def ask(self, method: str, path: str, body: Row | None = None, **query: Any) -> Any:
        """The answer to one request; asked again while nobody answers. Raises Refused on a 4xx."""
        deadline = time.monotonic() + ANSWER_LIMIT_SECONDS
        while True:
            try:
                url = self.base + path
                async with self._http.request(method, url, json=body, params=query, headers=self._headers) as answer:
                    text = await answer.text()
                    if answer.status < 400:
                        return json.loads(text) if text else None
                    if answer.status < 500:
                        raise Refused(answer.status, f"{method} {path}: {answer.status} {text[:300]}")
                    problem = f"{answer.status} {text[:100]}"
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = type(error).__name__
            if time.monotonic() > deadline:
                raise DemoFailed(f"{method} {path} was not answered for {ANSWER_LIMIT_SECONDS} s ({problem})")
            await asyncio.sleep(0.3)

    async def rows(self, path: str, **query: Any) -> list[Row]:
        """Every row of a paged list, oldest first."""
        answer = await self.ask("GET", path, **query)
        found: list[Row] = list(answer["results"])
        while answer["next"]:
            answer = await self.ask("GET", answer["next"].removeprefix(self.base))
            found += answer["results"]
        return found[::-1]

    async def ensure(self, path: str, body: Row, **same: Any) -> Row:
        """The row that ``same`` describes, made from ``body`` if it is not there: a repeated request makes no twin."""

        async def found() -> Row | None:
            rows = await self.rows(path)
            return next((row for row in rows if all(row[name] == value for name, value in same.items())), None)

        if row := await found():
            return row
        try:
            made: Row = await self.ask("POST", path, body)
        except Refused:
            # The answer to an earlier try may have been lost on its way: then the row is there.
            if row := await found():
                return row
            raise
        return made

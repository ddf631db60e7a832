"""Reading a long list whole, however a venue cuts it into pages.

Each walk asks ``fetch`` again and again and keeps every row once, until the venue has no more; none of them trusts that the
first page is all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
# (since in ms or None, further parameters) -> the rows of that page, and the venue's answer as it came.
Fetch = Callable[[int | None, dict[str, Any]], tuple[list[Row], Any]]
# (fetch, since in ms, the venue's time in ms, to the day) -> every row from since on, in no particular order.
Walk = Callable[[Fetch, int, int], list[Row]]

DAY_MS = 86_400_000


def row_key(row: Row) -> tuple[str, str]:
    """What makes a row one: who trades with himself has two fills of one trade, told apart by their orders."""
    return str(row.get("order") or ""), str(row["id"])


def walk_by_cursor(fetch: Fetch, since_ms: int, now_ms: int, *, size: int, span_ms: int) -> list[Row]:
    """For a venue that gives at most ``span_ms`` per query, newest rows first, and names the next page by ``lastId``.

    The last span is left open at its end: what happens while we read belongs to it. The times go past ccxt, which would
    drop rows by another time than the venue's and make a full page look like the last.
    """
    rows: dict[tuple[str, str], Row] = {}
    start = since_ms
    while True:
        is_last_span = start + span_ms > now_ms + DAY_MS
        params: dict[str, Any] = {"startAt": start, "limit": size}
        if not is_last_span:
            params["endAt"] = start + span_ms - 1
        while True:
            page, answer = fetch(None, params)
            if not _keep(rows, page) or len(page) < size:
                break
            params = {**params, "lastId": answer["data"]["lastId"]}
        if is_last_span:
            return list(rows.values())
        start += span_ms


def walk_by_page(fetch: Fetch, since_ms: int, now_ms: int, *, size: int, span_ms: int) -> list[Row]:
    """For a venue that gives at most ``span_ms`` per query, newest rows first, in numbered pages.

    Pages are numbered from the newest row on, so what happens while we read moves rows to later pages: they come twice, and
    none is missed. The last span is left open at its end, and times go past ccxt, as for ``walk_by_cursor``.
    """
    rows: dict[tuple[str, str], Row] = {}
    start = since_ms
    while True:
        is_last_span = start + span_ms > now_ms + DAY_MS
        params: dict[str, Any] = {"startAt": start, "pageSize": size, "currentPage": 1}
        if not is_last_span:
            params["endAt"] = start + span_ms - 1
        while True:
            page, _ = fetch(None, params)
            if not _keep(rows, page) or len(page) < size:
                break
            params = {**params, "currentPage": params["currentPage"] + 1}
        if is_last_span:
            return list(rows.values())
        start += span_ms


def walk_backward(fetch: Fetch, since_ms: int, now_ms: int, *, size: int) -> list[Row]:
    """For a venue that gives the newest ``size`` rows between two times: back from the oldest row seen, until a page is
    not full or brings nothing new."""
    rows: dict[tuple[str, str], Row] = {}
    params: dict[str, Any] = {"startAt": since_ms, "maxCount": size}
    while True:
        page, _ = fetch(None, params)
        if not _keep(rows, page) or len(page) < size:
            return list(rows.values())
        params = {**params, "endAt": min(_times(page))}


def walk_forward(fetch: Fetch, since_ms: int, now_ms: int, *, size: int, since_name: str) -> list[Row]:
    """For a venue that gives the oldest rows first, from ``since_name`` on, ``size`` of them at most."""
    rows: dict[tuple[str, str], Row] = {}
    start = since_ms
    while True:
        page, _ = fetch(None, {since_name: start, "limit": size})
        is_news = _keep(rows, page)
        if len(page) < size:
            return list(rows.values())
        if not is_news:
            raise ValueError("a full page without news: more rows at one time than a page takes")
        start = max(_times(page))


def walk_both_ways(fetch: Fetch, since_ms: int, now_ms: int) -> list[Row]:
    """For a venue of which we know neither how long a page is nor at which end it begins: onwards from the newest row seen
    and back from the oldest, until neither brings anything new."""
    rows: dict[tuple[str, str], Row] = {}
    if not _keep(rows, fetch(since_ms, {})[0]):
        return []
    while _keep(rows, fetch(max(_times(rows.values())), {})[0]):
        pass
    while _keep(rows, fetch(since_ms, {"until": min(_times(rows.values()))})[0]):
        pass
    return list(rows.values())


def _keep(rows: dict[tuple[str, str], Row], page: Iterable[Row]) -> bool:
    """Whether ``page`` had anything that was not there yet."""
    before = len(rows)
    rows.update((row_key(row), row) for row in page)
    return len(rows) > before


def _times(rows: Iterable[Row]) -> list[int]:
    return [int(row["timestamp"]) for row in rows]

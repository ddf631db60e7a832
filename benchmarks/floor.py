"""Floors: the same work in the barest form that is still durable, measured beside the platform on the same servers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
import uuid
from contextlib import closing

import psycopg
import requests

from benchmarks.world import FUNDS, Venue

# Stored, answered, requested, valued, claimed, opened: what one chain commits from candle to accepted order.
COMMITS_PER_CHAIN = 6


def chains_floor(venue: Venue, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds of ``count`` bare chains: their transactions (a guarded UPDATE … RETURNING and a journal row each) in a
    plain psycopg loop, and of one signed order each over a connection kept open."""
    key = {"apiKey": "bench-floor", "secret": "secret-floor", "passphrase": "pass-floor"}
    venue.control("accounts", **key, balances={"USDT": FUNDS})
    databases, orders = [], []
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection, closing(requests.Session()) as http:
        connection.execute("CREATE TABLE bench_floor (id bigint PRIMARY KEY, step int NOT NULL)")
        connection.execute("INSERT INTO bench_floor SELECT n, 0 FROM generate_series(1, %s) AS n", [count])
        connection.commit()
        for number in range(1, count + 1):
            began = time.perf_counter()
            _chain(connection, number)
            committed = time.perf_counter()
            _order(http, venue.url, **key)
            databases.append((committed - began) * 1000)
            orders.append((time.perf_counter() - committed) * 1000)
    return databases, orders


def _chain(connection: psycopg.Connection, number: int) -> None:
    for step in range(COMMITS_PER_CHAIN):
        connection.execute(
            "UPDATE bench_floor SET step = %s WHERE id = %s AND step = %s RETURNING id", [step + 1, number, step]
        )
        connection.execute(
            "INSERT INTO pipeline_event (topic, key, ids, data) VALUES ('bench', %s, %s, %s)",
            [number, json.dumps({"order_id": number}), json.dumps({"status": "BENCH"})],
        )
        connection.commit()


def _order(http: requests.Session, url: str, apiKey: str, secret: str, passphrase: str) -> None:  # noqa: N803  # theirs
    path, at = "/api/v1/hf/orders", str(int(time.time() * 1000))
    body = json.dumps(
        {"clientOid": uuid.uuid4().hex, "symbol": "BTC-USDT", "side": "buy", "type": "market", "size": "0.002"}
    )
    headers = {
        "KC-API-KEY": apiKey,
        "KC-API-SIGN": _signed(secret, f"{at}POST{path}{body}"),
        "KC-API-PASSPHRASE": _signed(secret, passphrase),
        "KC-API-TIMESTAMP": at,
        "KC-API-KEY-VERSION": "2",
        "Content-Type": "application/json",
    }
    answer = http.post(url + path, data=body, headers=headers, timeout=10).json()
    if answer.get("code") != "200000":
        raise RuntimeError(f"wanted an accepted order, was {answer}")


def _signed(secret: str, text: str) -> str:
    return base64.b64encode(hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()).decode()


def ticks_floor(count: int, rounds: int) -> list[float]:
    """Seconds of one set-based UPDATE that values the same rows of the same table, each round in its own transaction."""
    taken = []
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        for _ in range(rounds):
            began = time.perf_counter()
            updated = connection.execute(
                """
                UPDATE positions_position AS p
                SET mark_price = q.last, unrealized_pnl = (q.last - p.entry_price) * p.quantity, valued_at = now(),
                    valuations = p.valuations + 1
                FROM exchanges_quote AS q WHERE p.status = 'OPEN' AND q.market_id = p.market_id
                """
            ).rowcount
            connection.commit()
            taken.append(time.perf_counter() - began)
            if updated != count:
                raise RuntimeError(f"wanted {count} rows valued, was {updated}")
    return taken

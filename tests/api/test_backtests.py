"""Backtests at the API: asked for, followed and stopped by their owner; tables, a page and comparisons of the results."""

from __future__ import annotations

import csv
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from backtesting import result_api
from backtesting.models import BacktestRun
from backtesting.runs import run_compute, run_request, run_result
from backtesting.setups import Asked
from marketdata.models import Candle
from tests.api.conftest import ROOT, Api
from tests.backtesting.test_runs import COUNT, FROM_AT, HOUR, UNTIL_AT, wave_feed, waves
from tests.conftest import Bells
from tests.factories import NOON, make_account

ISO = "%Y-%m-%dT%H:%M:%SZ"


def wish(**changes: Any) -> dict[str, Any]:
    return {
        "strategy": "sma_cross", "parameters": {"fast": 3, "slow": 8}, "from_at": FROM_AT.strftime(ISO),
        "until_at": UNTIL_AT.strftime(ISO), **changes,
    }  # fmt: skip


def done(owner: Api, feed: Any = None, **words: Any) -> BacktestRun:
    """A run of the owner's that is computed."""
    assert owner.user is not None
    plain: dict[str, Any] = {"parameters": {"fast": 3, "slow": 8}, "from_at": FROM_AT, "until_at": UNTIL_AT}
    run = run_request(owner.user, Asked("sma_cross", [feed or wave_feed()], **{**plain, **words}))
    run_compute(run.pk)
    return BacktestRun.objects.get(pk=run.pk)


def test_a_span_without_an_end_goes_up_to_where_every_feed_has_candles(alice: Api) -> None:
    shorter = wave_feed("ETH/USDT")
    feeds = [wave_feed().pk, shorter.pk]
    Candle.objects.filter(feed=shorter, open_at__gte=NOON - 24 * HOUR).delete()
    words = wish(feeds=feeds)
    del words["until_at"]

    row = alice.post("backtests", words).json()

    assert row["until_at"] == (NOON - 24 * HOUR).strftime(ISO), row


@pytest.mark.django_db(transaction=True)
def test_a_trader_asks_for_a_backtest_and_follows_it_to_its_figures(alice: Api, bells: Bells) -> None:
    feed = wave_feed()

    asked = alice.post("backtests", wish(feeds=[feed.pk], name="first", settings={"cash": "2500"}))
    row = asked.json()
    rung = bells.rung("backtesting.run")
    run_compute(row["id"])
    after = alice.get(f"backtests/{row['id']}").json()

    assert asked.status_code == 201, row
    assert rung == [{"run_ids": [row["id"]]}]
    assert (row["name"], row["status"], row["figures"], row["progress"]["percent"]) == ("first", "QUEUED", None, 0.0)
    assert row["feeds"] == [{"id": feed.pk, "exchange_name": "simulator", "symbol": "BTC/USDT", "timeframe": "1h"}]
    assert (row["settings"]["cash"], row["settings"]["taker_fee"]) == ("2500", "0.001")
    assert (after["status"], after["progress"]) == ("DONE", {"percent": 100.0, "done": COUNT, "total": COUNT})
    assert after["stats"]["trades"] == after["figures"]["stats"]["trades"] > 5
    assert len(after["code_hash"]) == len(after["data_hash"]) == 32
    assert after["repetition"] is None


def test_feeds_are_named_by_exchange_symbols_and_timeframe_too(alice: Api) -> None:
    wave_feed()
    wave_feed("ETH/USDT", waves(size=5.0))

    row = alice.post("backtests", wish(exchange="simulator", symbols=["ETH/USDT", "BTC/USDT"], timeframe="1h")).json()
    unknown = alice.post("backtests", wish(exchange="simulator", symbols=["XRP/USDT"], timeframe="1h"))

    assert [feed["symbol"] for feed in row["feeds"]] == ["ETH/USDT", "BTC/USDT"]
    assert unknown.json()["fields"] == {"symbols": ["wanted markets of simulator with a feed at 1h, was XRP/USDT"]}
    assert alice.post("backtests", wish()).json()["fields"] == {
        "feeds": ["wanted ids, or exchange, symbols and timeframe, was neither"]
    }


def test_missing_candles_are_told_with_the_backfill_that_fetches_them(alice: Api) -> None:
    feed = wave_feed()
    Candle.objects.filter(open_at__lt=NOON - 200 * HOUR).delete()

    answer = alice.post("backtests", wish(feeds=[feed.pk]))

    assert answer.status_code == 400
    [text] = answer.json()["fields"]["from_at"]
    assert text.startswith(
        "wanted 240 candles of simulator-BTC/USDT-1h, 39 are missing, 39 of them from 2024-04-21 13:00"
    )
    assert f"backfill (feed {feed.pk}, from_at 2024-04-21T13:00:00Z, until_at 2024-04-23T04:00:00Z)" in text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("feeds", "[1e999]", {"0": ["A valid integer is required."]}),
        ("feeds", f"[{2**40}]", [f"wanted ids of feeds, was {2**40}"]),
        ("feeds", f"{[1] * 51}", ["wanted at most 50 feeds, was 51"]),
        ("account", "1e999", ["Incorrect type. Expected pk value, received float."]),
        ("parameters", '{"a": "\\u0000"}', ["wanted text without NUL, was some with it"]),
        ("parameters", '{"a": "\\\\u0000"}', ["a: Extra inputs are not permitted, was '\\\\u0000'"]),
    ],
)
def test_what_json_can_say_and_no_query_takes_is_refused(alice: Api, name: str, text: str, message: Any) -> None:
    client = APIClient()
    client.force_authenticate(alice.user)
    body = json.dumps(wish(feeds=[wave_feed().pk]) | {name: "it"}).replace('"it"', text)

    answer = client.post(f"{ROOT}backtests", body, content_type="application/json")

    assert (answer.status_code, answer.json()["fields"][name]) == (400, message)


def test_reports_are_written_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work: list[int] = []

    def result(run: BacktestRun) -> tuple[None, None, None, bool]:
        at_work.append(1)
        time.sleep(0.05)
        return None, None, None, True

    def page(*_: Any) -> str:
        found = len(at_work)
        at_work.pop()
        return str(found)

    monkeypatch.setattr(result_api, "run_result", result)
    monkeypatch.setattr(result_api, "report_html", page)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(result_api.report_of, [BacktestRun()] * 3)) == ["1", "1", "1"]


def test_another_traders_account_is_unknown(alice: Api, bob: Api) -> None:
    theirs = make_account(bob.user)

    answer = alice.post("backtests", wish(feeds=[wave_feed().pk], account=theirs.pk))

    assert answer.json()["fields"] == {"account": [f'Invalid pk "{theirs.pk}" - object does not exist.']}


def test_cancelled_retried_repeated_and_deleted(alice: Api) -> None:
    pk = alice.post("backtests", wish(feeds=[wave_feed().pk])).json()["id"]

    kept = alice.call("delete", f"backtests/{pk}")
    states = [alice.post(f"backtests/{pk}/{verb}").json()["status"] for verb in ("cancel", "cancel", "retry")]
    refused = alice.post(f"backtests/{pk}/retry")
    run_compute(pk)
    again = alice.post(f"backtests/{pk}/repeat")
    run_compute(again.json()["id"])
    told = alice.get(f"backtests/{again.json()['id']}").json()
    gone = alice.call("delete", f"backtests/{pk}")

    assert (kept.status_code, kept.json()["code"]) == (409, "unable_to_backtest")
    assert states == ["CANCELED", "CANCELED", "QUEUED"]
    assert (refused.status_code, refused.json()["detail"]) == (
        409, "wanted a backtest that failed or was cancelled, was QUEUED",
    )  # fmt: skip
    assert (again.status_code, told["repeats"]) == (201, pk)
    assert told["repetition"] == {
        "has_same_code": True, "has_same_data": True, "has_same_trades": True,
        "in_words": "the same code on the same candles, and the same trades",
    }  # fmt: skip
    assert (gone.status_code, alice.ids("backtests")) == (204, [told["id"]])


def test_a_list_has_the_figures_in_short_and_is_narrowed(alice: Api) -> None:
    one = done(alice)
    other = alice.post("backtests", wish(feeds=[wave_feed("ETH/USDT").pk], strategy="donchian", parameters={})).json()

    rows = {row["id"]: row for row in alice.get("backtests").json()["results"]}

    assert rows[one.pk]["stats"]["trades"] == (one.figures or {})["stats"]["trades"]
    assert rows[other["id"]]["stats"] is None
    assert "figures" not in rows[one.pk]
    for query in ({"status": "DONE"}, {"strategy": "sma_cross"}, {"symbol": "BTC/USDT"}, {"name": "crossover"}):
        assert alice.ids("backtests", **query) == [one.pk], query
    assert alice.ids("backtests", since=(timezone.now() + timedelta(days=1)).isoformat()) == []


def test_trades_come_in_pages_and_as_csv(alice: Api) -> None:
    run = done(alice)
    trades = run.result.trades

    first = alice.get(f"backtests/{run.pk}/trades", limit=3).json()
    second = alice.get(f"backtests/{run.pk}/trades", limit=3, start=3)
    text = alice.get(f"backtests/{run.pk}/trades", format="csv")

    assert (first["count"], first["results"]) == (len(trades), trades[:3])
    assert first["next"].endswith("start=3")
    assert second.json()["results"] == trades[3:6]
    assert second.headers["Link"].endswith('start=6>; rel="next"')
    rows = list(csv.DictReader(io.StringIO(text.content.decode())))
    assert text.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert [float(row["pnl"]) for row in rows] == [trade["pnl"] for trade in trades]
    assert [row["entry_at"] for row in rows] == [trade["entry_at"] for trade in trades]


def test_the_equity_comes_as_json_csv_and_arrow(alice: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    run = done(alice)
    result = run_result(run)[0]

    page = alice.get(f"backtests/{run.pk}/equity", limit=2).json()
    following = alice.get(f"backtests/{run.pk}/equity", **{"from": int(result.open_ms[2]), "limit": 1}).json()
    text = alice.get(f"backtests/{run.pk}/equity", format="csv").content.decode().splitlines()
    table = pa.ipc.open_stream(alice.get(f"backtests/{run.pk}/equity", format="arrow").content).read_all()

    assert [row["equity"] for row in page["results"]] == result.equity[:2].tolist()
    assert page["results"][0]["open_at"] == FROM_AT.strftime(ISO) or len(result.open_ms) < COUNT
    assert page["next"] is not None
    assert [row["equity"] for row in following["results"]] == result.equity[2:3].tolist()
    assert (text[0], len(text)) == ("ts,equity", len(result.equity) + 1)
    np.testing.assert_array_equal(table.column("equity").to_numpy(), result.equity)
    assert alice.get(f"backtests/{run.pk}/equity", limit=2000).json()["fields"] == {
        "limit": ["Ensure this value is less than or equal to 1500."]
    }
    monkeypatch.setattr(result_api, "MOST_ROWS", 5)
    assert len(alice.get(f"backtests/{run.pk}/equity").json()["results"]) == 5
    assert alice.get(f"backtests/{run.pk}/equity", format="csv").content.decode().splitlines() == text


def test_who_has_the_tables_already_is_told_so(alice: Api) -> None:
    from rest_framework.test import APIClient

    run = done(alice)
    client = APIClient()
    client.force_authenticate(alice.user)

    for name in ("trades", "equity"):
        first = client.get(f"/api/v1/backtests/{run.pk}/{name}")
        again = client.get(f"/api/v1/backtests/{run.pk}/{name}", headers={"If-None-Match": first.headers["ETag"]})
        assert (first.status_code, again.status_code, again.headers["ETag"]) == (200, 304, first.headers["ETag"]), name


def test_the_report_is_a_page_that_can_do_nothing_but_show_itself(alice: Api) -> None:
    run = done(alice)

    page = alice.get(f"backtests/{run.pk}/report")

    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html")
    assert "sandbox allow-scripts" in page.headers["Content-Security-Policy"]
    assert page.content.decode().startswith("<!doctype html>") or page.content.decode().startswith("<!DOCTYPE html>")
    assert "SMA crossover BTC/USDT 1h" in page.content.decode()
    assert "candles have changed since" not in page.content.decode()
    assert page.headers["Cache-Control"] == "private, no-store"  # or a browser would show what was true then

    Candle.objects.filter(open_at=NOON - 9 * HOUR).update(volume=2)
    assert "candles have changed since" in alice.get(f"backtests/{run.pk}/report").content.decode()


@pytest.mark.parametrize("name", ["trades", "equity", "report"])
def test_what_is_not_done_has_no_tables(alice: Api, name: str) -> None:
    pk = alice.post("backtests", wish(feeds=[wave_feed().pk])).json()["id"]

    answer = alice.get(f"backtests/{pk}/{name}")

    assert (answer.status_code, answer.json()) == (
        409, {"code": "unable_to_backtest", "detail": "wanted a backtest that is done, was QUEUED"},
    )  # fmt: skip


def test_a_comparison_names_what_differs_in_words(alice: Api, bob: Api) -> None:
    feed = wave_feed()
    one = done(alice, feed)
    other = done(alice, feed, parameters={"fast": 3, "slow": 12}, limits={"max_open_positions": 1})
    theirs = done(bob, feed)

    told = alice.get("backtests/compare", ids=f"{one.pk},{other.pk}").json()
    refused = alice.get("backtests/compare", ids=f"{one.pk},{theirs.pk}")

    assert [run["id"] for run in told["runs"]] == [one.pk, other.pk]
    assert told["in_words"] == ["slow: 8, 12", "max open positions: -, 1"]
    assert told["differ"] == [
        {"name": "slow", "values": [8, 12]}, {"name": "max_open_positions", "values": ["-", 1]},
    ]  # fmt: skip
    [trades] = [line for line in told["figures"] if line["name"] == "trades"]
    assert trades["values"] == [(run.figures or {})["stats"]["trades"] for run in (one, other)]
    assert refused.json()["fields"] == {"ids": [f"wanted backtests of yours, was {theirs.pk}"]}
    assert alice.get("backtests/compare", ids=f"{one.pk}").json()["in_words"] == [
        "nothing of what was asked, of the code or of the candles differs"
    ]


@pytest.mark.parametrize("ids", ["", "a", "1,,2", ",".join("1" * 30), "1.5"])
def test_a_comparison_of_nothing_that_has_an_id_is_refused(alice: Api, ids: str) -> None:
    answer = alice.get("backtests/compare", ids=ids)

    assert (answer.status_code, list(answer.json()["fields"])) == (400, ["ids"])


def test_what_can_be_set_is_told_with_bounds_and_help(alice: Api) -> None:
    told = alice.get("backtests/settings").json()

    assert told["settings"]["properties"]["volume_share"]["description"].startswith("No order takes more")
    assert "max_open_positions" in told["limits"]["properties"]
    assert "max_var_percent" not in told["limits"]["properties"]
    assert "roi" in told["exits"]["properties"]

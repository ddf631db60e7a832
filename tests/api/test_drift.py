"""A session beside its backtest at the API: every trade of either, and why they differ."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from backtesting.drift import CODE_TEXTS, Code
from domain.candles import Timeframe
from domain.orders import OrderStatus
from domain.strategy import SignalKind
from marketdata.models import Feed
from money.models import Valuation
from orders.models import Order
from pipeline.models import Event
from pipeline.topics import Topic
from positions.models import Position, PositionStatus
from sessions.models import TradingSession
from tests.api.conftest import Api
from tests.factories import make_candles, make_limits, make_order, make_position, make_session, make_signal

pytestmark = pytest.mark.django_db

D = Decimal
MINUTE = timedelta(minutes=1)
# Up once, down once: bought at 105 on the candle after the one of 104, stopped where the candle of 100 opens.
ROUND = [94.0, 94.0, 94.0, 93.0, 104.0, 105.0, 106.0, 100.0]
BOUGHT, STOPPED = 5, 7
ROUNDS = 6
QUANTITY = D("9.5238")  # of 1,000 at 105, in lots of 0.00001


@pytest.fixture
def session() -> TradingSession:
    """Active since before the first of six rounds of eight minutes, which ended just now; nothing is traded yet."""
    session = make_session()
    feed = session.config.feed
    make_candles(feed, [94.0] * 4 + ROUND * ROUNDS, Timeframe.M1.open_of(timezone.now()) - MINUTE)
    begin = at(feed, 0, 0)
    TradingSession.objects.filter(pk=session.pk).update(signals_after=begin - timedelta(seconds=30), started_at=begin)
    session.refresh_from_db()
    return session


def at(feed: Feed, number: int, candle: int) -> datetime:
    """The open time of a candle of a round."""
    feed.refresh_from_db()
    assert feed.last_open_at is not None
    return feed.last_open_at - MINUTE * (ROUNDS * len(ROUND) - 1 - number * len(ROUND) - candle)


def traded(session: TradingSession, number: int, **fields: Any) -> Position:
    """The session's trade of a round, exactly the backtest's but for what ``fields`` say."""
    feed = session.config.feed
    bought_at, stopped_at = at(feed, number, BOUGHT), at(feed, number, STOPPED)
    signal = make_signal(session.config, closed_at=bought_at)
    defaults: dict[str, Any] = {
        "status": PositionStatus.CLOSED, "entry_signal": signal, "opened_at": bought_at + timedelta(seconds=2),
        "closed_at": stopped_at + timedelta(seconds=1), "entered": QUANTITY, "exited": QUANTITY, "entry_price": D(105),
        "exit_price": D(100), "exit_reason": "STOP_LOSS", "realized_pnl": D("-49.571379"),
    }  # fmt: skip
    position = make_position(session, **{**defaults, **fields})
    make_order(position, status=OrderStatus.CLOSED, quantity=QUANTITY, filled=position.entered)
    return position


def told(api: Api, session: TradingSession, **query: Any) -> dict[str, Any]:
    answer = api.get(f"sessions/{session.pk}/drift", **query)
    assert answer.status_code == 200, answer.content
    body: dict[str, Any] = answer.json()
    return body


def row_of(api: Api, session: TradingSession, number: int) -> dict[str, Any]:
    """The row of a round's trade; of all others the session made the same."""
    opened = at(session.config.feed, number, BOUGHT).isoformat().replace("+00:00", "Z")
    [row] = [row for row in told(api, session)["rows"] if row["candle_open_at"] == opened]
    found: dict[str, Any] = row
    return found


def test_a_session_that_did_the_same_says_so(alice: Api, session: TradingSession) -> None:
    position = traded(session, 0)

    answer = told(alice, session, until=at(session.config.feed, 1, 0).isoformat())

    [row] = answer["rows"]
    assert (row["codes"], row["text"], row["side"]) == (["SAME"], "The same.", "LONG")
    assert (row["live"]["position"], row["live"]["entry_price"], row["live"]["quantity"]) == (
        position.pk,
        "105",
        "9.5238",
    )
    assert (row["backtest"]["entry_price"], row["backtest"]["quantity"], row["backtest"]["exit_reason"]) == (
        105.0, 9.5238, "STOP_LOSS",
    )  # fmt: skip
    assert row["difference"] == {
        "seconds": 2.0, "entry_price": 0.0, "exit_price": 0.0, "quantity": 0.0, "slippage": 0.0,
        "pnl": pytest.approx(0.0, abs=1e-9),
    }  # fmt: skip
    assert (answer["count"], answer["candles"], answer["totals"]["codes"]) == (1, 8, {"SAME": 1})
    assert answer["totals"]["live_pnl"] == -49.571379
    assert answer["warnings"] == []


def test_late_dear_and_short_of_what_was_asked_for(alice: Api, session: TradingSession) -> None:
    opened = at(session.config.feed, 1, BOUGHT)
    half = QUANTITY / 2
    traded(
        session, 1, opened_at=opened + timedelta(seconds=20), entry_price=D("105.3"), entered=half, exit_price=D("99.9"),
        realized_pnl=D("-26.5"),
    )  # fmt: skip

    row = row_of(alice, session, 1)

    assert row["codes"] == ["LATENCY", "SLIPPAGE", "PARTIAL"]
    assert row["text"] == (
        "Entered 20 s after the open; entry at +0.3 from the backtest's price; exit at -0.1 from the backtest's price; "
        "4.7619 of 9.5238 filled."
    )
    assert row["difference"]["seconds"] == 20.0
    assert row["difference"]["entry_price"] == pytest.approx(0.3)
    assert row["difference"]["slippage"] == pytest.approx(0.4 * 4.7619)
    assert row["difference"]["pnl"] == pytest.approx(-26.5 + 49.571379)


def test_another_size_and_another_way_out(alice: Api, session: TradingSession) -> None:
    feed = session.config.feed
    position = traded(session, 2, entered=D(8), closed_at=at(feed, 2, 6), exit_price=D(106), exit_reason="TAKE_PROFIT")
    Order.objects.update(quantity=D(8))
    row = row_of(alice, session, 2)
    assert row["codes"] == ["SIZE", "EXIT"]
    assert "8 asked for, in the backtest 9.5238; left by TAKE_PROFIT at" in row["text"]
    assert "in the backtest left by STOP_LOSS at" in row["text"]
    assert row["difference"]["slippage"] == 0.0  # what another exit cost is no slippage

    Position.objects.filter(pk=position.pk).update(entered=QUANTITY, exit_reason="MARKET_EXIT")
    assert row_of(alice, session, 2)["codes"] == ["BY_HAND"]


def test_a_position_that_is_still_held_is_no_other_result(alice: Api, session: TradingSession) -> None:
    traded(session, 3, status=PositionStatus.OPEN, closed_at=None, exit_reason="")

    row = row_of(alice, session, 3)

    assert row["codes"] == ["EXIT"]
    assert "Not left yet, in the backtest left by STOP_LOSS" in row["text"]
    assert (row["live"]["exit_at"], row["live"]["pnl"], row["difference"]["pnl"]) == (None, None, None)


def test_a_denied_entry_is_told_with_its_reason(alice: Api, session: TradingSession) -> None:
    signal = make_signal(session.config, closed_at=at(session.config.feed, 0, BOUGHT))
    position = make_position(session, PositionStatus.ABANDONED, entry_signal=signal)
    order = make_order(position, status=OrderStatus.DENIED, reason="MAX_EXPOSURE")
    Valuation.objects.create(order=order, verdict="MAX_EXPOSURE", equity=D(5000))

    row = row_of(alice, session, 0)

    assert (row["codes"], row["live"]["denial"], row["live"]["entry_at"]) == (["DENIED"], "MAX_EXPOSURE", None)
    assert row["text"].startswith("MAX_EXPOSURE: ")
    assert row["backtest"]["pnl"] == pytest.approx(-49.571379)
    Order.objects.update(status=OrderStatus.REJECTED, reason="200004")
    row = row_of(alice, session, 0)
    assert (row["codes"], row["text"]) == (["NOT_FILLED"], "The entry came to nothing: REJECTED.")


def test_an_entry_that_both_were_denied_is_the_same(alice: Api, session: TradingSession) -> None:
    make_limits(session.account, max_exposure=D("0.01"))
    signal = make_signal(session.config, closed_at=at(session.config.feed, 0, BOUGHT))
    make_order(
        make_position(session, PositionStatus.ABANDONED, entry_signal=signal), status=OrderStatus.DENIED,
        reason="MAX_EXPOSURE",
    )  # fmt: skip

    [row] = told(alice, session)["rows"]

    assert (row["codes"], row["backtest"]) == (["SAME"], None)
    assert row["text"].endswith("The backtest did not enter either.")
    Order.objects.update(reason="COOLDOWN")
    assert told(alice, session)["rows"][0]["codes"] == ["DENIED"]


@pytest.mark.parametrize(
    ("topic", "data", "code"),
    [
        (Topic.COMMAND, {"command": "suspend"}, "SUSPENDED"),
        (Topic.ALERTS, {"alert": "SESSION_HALTED"}, "HALTED"),
        (Topic.COMMAND, {"command": "stop"}, "NOT_RUNNING"),
    ],
)
def test_while_it_did_not_trade_that_is_why(
    alice: Api, session: TradingSession, topic: Topic, data: dict[str, str], code: str
) -> None:
    feed = session.config.feed

    def happened(on: Topic, what: dict[str, str], when: datetime) -> None:
        Event.objects.create(topic=on, key=session.pk, session_id=session.pk, data=what, at=when)

    happened(Topic.COMMAND, {"command": "start"}, at(feed, 0, 0))
    happened(topic, data, at(feed, 1, 0))
    happened(Topic.COMMAND, {"command": "recovered"}, at(feed, 2, 0))
    TradingSession.objects.update(signals_after=at(feed, 2, 0))

    codes = [row["codes"] for row in told(alice, session)["rows"]]

    assert codes == [["NO_SIGNAL_LIVE"], [code], *[["NO_SIGNAL_LIVE"]] * 4]


def test_a_candle_that_said_something_else_live(alice: Api, session: TradingSession) -> None:
    feed = session.config.feed
    make_signal(session.config, SignalKind.NOTHING, closed_at=at(feed, 0, BOUGHT), reason="STALE: a newer one")
    make_signal(session.config, SignalKind.ENTER_LONG, closed_at=at(feed, 1, BOUGHT))
    make_signal(session.config, SignalKind.EXIT_LONG, closed_at=at(feed, 2, BOUGHT))

    rows = told(alice, session)["rows"]

    assert [row["codes"][0] for row in rows[:4]] == [
        "NO_SIGNAL_LIVE",
        "NOT_ENTERED",
        "NO_SIGNAL_LIVE",
        "NO_SIGNAL_LIVE",
    ]
    assert rows[0]["text"] == "The strategy did not say so of the candle before: STALE: a newer one."
    assert rows[2]["text"] == "The strategy did not say so of the candle before: EXIT_LONG."
    assert rows[3]["text"] == "The candle before was not evaluated."


def test_every_code_is_explained() -> None:
    assert set(CODE_TEXTS) == set(Code)


def test_what_only_the_session_did(alice: Api, session: TradingSession) -> None:
    feed = session.config.feed
    signal = make_signal(session.config, closed_at=at(feed, 0, 2))
    left = {"opened_at": at(feed, 0, 2), "closed_at": at(feed, 1, 6), "realized_pnl": D(7)}
    traded(session, 3, entry_signal=signal, **left)
    by_hand = {"opened_at": at(feed, 4, 1), "closed_at": at(feed, 4, 3), "realized_pnl": D(2)}
    traded(session, 4, entry_signal=None, **by_hand)

    answer = told(alice, session)

    by_candle = [(row["codes"], row["live"] is not None, row["backtest"] is not None) for row in answer["rows"]]
    assert by_candle[:3] == [(["MISSED_IN_BACKTEST"], True, False), (["HELD"], False, True), (["HELD"], False, True)]
    assert (["BY_HAND"], True, False) in by_candle
    assert "The strategy says nothing there over the candles as they are stored now." in answer["rows"][0]["text"]
    assert answer["totals"]["extra_pnl"] == 9.0
    assert answer["totals"]["missed_pnl"] == pytest.approx(-49.571379 * 6)
    assert answer["totals"]["difference"] == pytest.approx(9 + 49.571379 * 6)
    assert (answer["totals"]["live_trades"], answer["totals"]["backtest_trades"]) == (2, 6)


def test_rows_come_in_pages_and_totals_are_of_all(alice: Api, session: TradingSession) -> None:
    answer = told(alice, session, limit=2, offset=1)

    whole = told(alice, session)
    assert (answer["count"], answer["rows"]) == (6, whole["rows"][1:3])
    assert answer["totals"] == whole["totals"]


def test_a_size_by_equity_begins_with_what_there_was(alice: Api, session: TradingSession) -> None:
    TradingSession.objects.update(sizing_method="PERCENT_OF_EQUITY", sizing_amount=D(10))
    position = traded(session, 0)
    Valuation.objects.create(order=Order.objects.get(), verdict="APPROVED", equity=D(21000))

    answer = told(alice, session)

    assert answer["rows"][0]["backtest"]["quantity"] == 20.0
    assert answer["rows"][0]["live"]["position"] == position.pk
    assert answer["warnings"] == [
        "The account is taken to be this session's alone: what others won, lost or held is not known to it."
    ]


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ({"since": "2020-01-01T00:00:00Z"}, "since", "wanted at most 20000 candles of 1m, was "),
        ({"since": "2120-01-01T00:00:00Z"}, "since", "wanted at least one candle before "),
        ({"limit": "1001"}, "limit", "Ensure this value is less than or equal to 1000."),
        ({"since": "noon"}, "since", "Datetime has wrong format."),
    ],
)
def test_a_span_that_makes_no_sense_is_refused(
    alice: Api, session: TradingSession, query: dict[str, str], field: str, message: str
) -> None:
    answer = alice.get(f"sessions/{session.pk}/drift", **query)

    assert answer.status_code == 400
    assert answer.json()["fields"][field][0].startswith(message)


def test_a_session_that_never_ran_has_nothing_to_compare(alice: Api) -> None:
    session = make_session(signals_after=None)

    answer = alice.get(f"sessions/{session.pk}/drift")

    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_test")


def test_another_traders_session_is_unknown(bob: Api, root: Api, nobody: Api, session: TradingSession) -> None:
    traded(session, 0)

    assert bob.get(f"sessions/{session.pk}/drift").status_code == 404
    assert nobody.get(f"sessions/{session.pk}/drift").status_code in (401, 403)
    assert told(root, session)["rows"][0]["codes"] == ["SAME"]

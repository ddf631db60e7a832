"""Asking the money manager: what an order would get, why a session traded or did not, and what an account risks."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from domain.candles import Timeframe
from domain.strategy import SignalKind
from exchanges.models import Market
from money.models import EquityPoint, TradingHalt, Valuation
from money.services import orders_value
from orders.models import Order
from positions.models import Position
from sessions.models import SessionStatus, TradingSession
from sessions.services import session_start, session_suspend
from strategies.models import Signal
from tests.api.conftest import Api
from tests.factories import (
    NOON,
    finish,
    make_account,
    make_candles,
    make_config,
    make_feed,
    make_limits,
    make_market,
    make_open_position,
    make_order,
    make_position,
    make_quote,
    make_session,
    make_signal,
)

pytestmark = pytest.mark.django_db

D = Decimal


@pytest.fixture
def session(db: None) -> TradingSession:
    """A session of alice's of 1,000 each on a market at 50,000, without limits, on 10,000 USDT."""
    session = make_session()
    make_limits(session.account)
    make_quote(session.config.feed.market)
    return session


# -- quotes --------------------------------------------------------------------------------------------------------------


def test_a_quote_tells_quantity_cost_and_every_limit_and_stores_nothing(alice: Api, session: TradingSession) -> None:
    make_limits(session.account, max_exposure=D(503))

    answer = alice.post("money/quote", {"session": session.pk})

    told = answer.json()
    assert answer.status_code == 200
    assert (told["verdict"], told["quantity"], told["notional"], told["reserved"]) == ("APPROVED", "0.01", "500", "503")
    assert (told["price"], told["wanted"], told["capped"], told["equity"]) == ("50000", "1000", "500", "10000")
    assert told["sizing"] == {"method": "FIXED_QUOTE", "amount": "1000", "price": "50000", "stop_loss_percent": "2",
                              "price_margin": "0.006"}  # fmt: skip
    [check] = told["checks"]
    assert (check["limit"], check["verdict"], check["room"]) == ("max_exposure", "CUT", "500")
    assert check["text"] == "exposure: 0 before, 503 after, at most 503; no more than 500 of the order fits"
    assert not Order.objects.exists()
    assert not Valuation.objects.exists()
    assert not Position.objects.exists()


def test_a_quote_that_is_denied_says_why(alice: Api, session: TradingSession) -> None:
    TradingHalt.objects.create(account=session.account, cause="a test", tripped_by="alice")

    told = alice.post("money/quote", {"session": session.pk}).json()

    assert (told["verdict"], told["quantity"], told["notional"]) == ("HALTED", None, "0")
    assert told["verdict_text"] == "Trading is halted here; somebody has to lift the halt first."


def test_a_limit_order_of_a_quantity_is_quoted_at_its_price(alice: Api, session: TradingSession) -> None:
    asked = {"session": session.pk, "order_type": "LIMIT", "price": "40000", "quantity": "0.05"}

    told = alice.post("money/quote", asked).json()

    assert (told["quantity"], told["notional"], told["reserved"]) == ("0.05", "2000", "2002")


def test_a_short_is_quoted_as_a_short(alice: Api, session: TradingSession) -> None:
    told = alice.post("money/quote", {"session": session.pk, "side": "SELL"}).json()

    assert told["verdict"] == "SIDE_NOT_TRADABLE"
    Market.objects.update(kind=Market.Kind.LINEAR_FUTURE)
    TradingSession.objects.update(leverage=4)
    told = alice.post("money/quote", {"session": session.pk, "side": "SELL"}).json()
    assert (told["verdict"], told["quantity"], told["reserved"]) == ("APPROVED", "0.02", "256")


@pytest.mark.parametrize(
    ("asked", "field", "message"),
    [
        ({"order_type": "LIMIT"}, "price", "wanted for a LIMIT order, was nothing"),
        ({"order_type": "STOP"}, "stop_price", "wanted for a STOP order, was nothing"),
        ({"price": "5"}, "price", "wanted nothing here for a MARKET order, was given"),
        ({"stop_price": "5"}, "stop_price", "wanted nothing here for a MARKET order, was given"),
        ({"quantity": "0"}, "quantity", "wanted more than 0, was 0"),
        ({"side": "HOLD"}, "side", '"HOLD" is not a valid choice.'),
    ],
)
def test_a_quote_that_makes_no_sense_is_refused_at_its_field(
    alice: Api, session: TradingSession, asked: dict[str, Any], field: str, message: str
) -> None:
    answer = alice.post("money/quote", {"session": session.pk, **asked})

    assert (answer.status_code, answer.json()["fields"]) == (400, {field: [message]})


def test_somebody_else_s_session_is_not_quoted_explained_or_measured(bob: Api, session: TradingSession) -> None:
    quoted = bob.post("money/quote", {"session": session.pk})

    assert quoted.json()["fields"] == {"session": [f'Invalid pk "{session.pk}" - object does not exist.']}
    assert bob.get(f"sessions/{session.pk}/why").status_code == 404
    assert bob.get(f"accounts/{session.account_id}/risk").status_code == 404


# -- why -----------------------------------------------------------------------------------------------------------------


def why(api: Api, session: TradingSession, **query: Any) -> Any:
    answer = api.get(f"sessions/{session.pk}/why", **query)
    assert answer.status_code == 200, answer.content
    return answer.json()


def acted_on(session: TradingSession, kind: SignalKind = SignalKind.ENTER_LONG) -> Order:
    """An entry that was asked for on a signal of the session's."""
    signal = make_signal(session.config, kind)
    TradingSession.objects.filter(pk=session.pk).update(last_signal=signal)
    return make_order(make_position(session, entry_signal=signal))


def test_nothing_evaluated_is_no_reason(alice: Api, session: TradingSession) -> None:
    told = why(alice, session)

    assert (told["signal"], told["orders"], told["sentences"]) == (None, [], ["No candle has been evaluated yet."])


def test_a_candle_without_a_signal_says_the_strategy_s_reason(alice: Api, session: TradingSession) -> None:
    signal = make_signal(session.config, SignalKind.NOTHING)
    Signal.objects.update(reason="WARMING_UP: 3 of 4 candles")

    told = why(alice, session)

    assert told["signal"]["id"] == signal.pk
    assert told["orders"] == []
    assert told["sentences"][0].endswith("UTC: WARMING_UP: 3 of 4 candles.")


def test_a_trade_is_told_from_signal_to_fill(alice: Api, session: TradingSession) -> None:
    make_limits(session.account, max_exposure=D(503))
    order = acted_on(session)
    orders_value([order.pk])
    order.refresh_from_db()
    finish(order)

    told = why(alice, session)

    [row] = told["orders"]
    assert (row["id"], row["status"], row["verdict"], row["quantity"]) == (order.pk, "CLOSED", "APPROVED", "0.01")
    assert row["checks"][0]["text"] == "exposure: 0 before, 503 after, at most 503; no more than 500 of the order fits"
    assert [fill["quantity"] for fill in row["fills"]] == ["0.01"]
    assert told["sentences"][1:4] == [
        "The entry was let through with 0.01 BTC: 1000 was asked for, 500 allowed.",
        "exposure: 0 before, 503 after, at most 503; no more than 500 of the order fits",
        "The entry is done: 0.01 of 0.01 BTC filled at 50000.",
    ]
    assert told["positions"][0]["exits"]["stop_loss_percent"] == "2"


def test_a_denial_is_told_with_the_limit_s_figures(alice: Api, session: TradingSession) -> None:
    make_limits(session.account, max_open_positions=0)
    orders_value([acted_on(session).pk])

    told = why(alice, session)

    assert told["orders"][0]["verdict"] == "MAX_OPEN_POSITIONS"
    assert told["sentences"][1:4] == [
        "The entry was denied (MAX_OPEN_POSITIONS): The account already holds as many positions as its risk profile allows.",
        "open positions: 0 before, 1 after, at most 0; denied",
        "The entry was never sent.",
    ]


def test_a_signal_that_became_no_order_says_why(alice: Api, session: TradingSession) -> None:
    make_signal(session.config)

    assert why(alice, session)["sentences"][-1] == "The session has not looked at it yet."

    TradingSession.objects.update(signals_after=timezone.now() + timedelta(minutes=1))
    assert why(alice, session)["sentences"][-1] == "The candle had closed before this run of the session began."


def test_a_session_that_slept_on_the_candle_says_so(alice: Api, session: TradingSession) -> None:
    TradingSession.objects.update(status=SessionStatus.CREATED)
    session_start(session.pk)
    session_suspend(session.pk)
    TradingSession.objects.update(signals_after=timezone.now() - timedelta(hours=1))
    make_signal(session.config)

    told = why(alice, session)

    assert (told["status_then"], told["status_now"]) == ("SUSPENDED", "SUSPENDED")
    assert told["sentences"][-1] == "The session was SUSPENDED then and took no entries."


def test_each_candle_has_its_own_reasons(alice: Api, session: TradingSession) -> None:
    order = acted_on(session)
    earlier = make_signal(session.config, SignalKind.EXIT_LONG, closed_at=NOON)
    Signal.objects.filter(pk=earlier.pk).update(created_at=NOON)

    told = why(alice, session, candle=earlier.candle_open_at.isoformat())
    newest = why(alice, session)

    assert (told["signal"]["id"], told["orders"]) == (earlier.pk, [])
    assert [row["id"] for row in newest["orders"]] == [order.pk]
    missing = why(alice, session, candle="2020-01-01T00:00:00Z")
    assert missing["sentences"][0].startswith("The candle that opened at 2020-01-01 00:00 UTC was not evaluated.")
    assert alice.get(f"sessions/{session.pk}/why", candle="noon").status_code == 400


# -- risk ----------------------------------------------------------------------------------------------------------------


def swinging(feed: Any, phase: int) -> None:
    make_candles(feed, [100 + 5 * math.sin(hour * hour + phase) for hour in range(120)], NOON)


def test_an_account_shows_what_it_is_concentrated_in_and_what_it_may_lose(alice: Api, session: TradingSession) -> None:
    account = session.account
    make_limits(account, max_exposure_percent=D(50), max_var_percent=D(5), max_daily_loss_percent=D(3))
    ether = make_market(account.exchange, "ETH/USDT")
    other = make_session(account, make_config(account.owner, make_feed(ether)))
    make_open_position(session)
    make_open_position(other, entry_price="2000", quantity="0.25")
    for number, market in enumerate((session.config.feed.market, ether)):
        swinging(make_feed(market, Timeframe.H1), number)
    make_quote(ether, "2000")
    EquityPoint.objects.create(
        account=account, currency="USDT", at=timezone.now(), equity=D(10098), peak=D(12000), drawdown=0
    )
    halt = TradingHalt.objects.create(session=other, cause="a test", tripped_by="alice")

    told = alice.get(f"accounts/{account.pk}/risk").json()

    assert (told["equity"], told["exposure"], told["net_exposure"], told["open_risk"]) == ("9998", "1500", "1500", "30")
    rows = [(row["name"], row["exposure"], row["net"]) for row in told["by_market"]]
    assert rows == [("BTC/USDT", "1000", "1000"), ("ETH/USDT", "500", "500")]
    assert [row["name"] for row in told["by_currency"]] == ["BTC", "ETH"]
    assert told["correlations"]["matrix"][0][0] == 1
    assert told["correlations"]["periods"] == 119
    assert [row["method"] for row in told["value_at_risk"]] == ["HISTORICAL", "PARAMETRIC", "MONTE_CARLO"]
    assert all(0 < D(row["var"]) <= D(row["cvar"]) for row in told["value_at_risk"])
    assert (told["daily_loss"]["amount"], told["drawdown"]["amount"]) == ("100", "2002")
    limits = {row["limit"]: (row["before"], row["bound"]) for row in told["limits"]}
    assert limits["max_exposure_percent"] == ("1500", "4999")
    assert limits["max_daily_loss_percent"] == ("100", "302.94")
    assert float(limits["max_var_percent"][0]) == pytest.approx(float(told["value_at_risk"][0]["var"]), abs=1e-6)
    assert [row["id"] for row in told["halts"]] == [halt.pk]


def test_an_account_that_does_nothing_risks_nothing(alice: Api) -> None:
    account = make_account()
    make_limits(account, max_var_percent=D(5), max_open_positions=3)

    told = alice.get(f"accounts/{account.pk}/risk").json()

    assert [(row["var"], row["cvar"]) for row in told["value_at_risk"]] == [("0", "0")] * 3
    assert [(row["limit"], row["before"], row["bound"]) for row in told["limits"]] == [("max_open_positions", "0", "3")]
    assert (told["drawdown"], told["daily_loss"], told["correlations"]) == (None, None, None)


def test_an_account_never_read_says_that_nothing_is_known(alice: Api) -> None:
    account = make_account(usdt=None)

    told = alice.get(f"accounts/{account.pk}/risk").json()

    assert told == {
        "account": account.pk, "currency": "USDT", "equity": None, "halts": [], "limits": [], "correlations": None,
        "daily_loss": None, "drawdown": None,
    }  # fmt: skip


def test_markets_without_candles_say_why_there_is_no_figure(alice: Api, session: TradingSession) -> None:
    make_open_position(session)

    told = alice.get(f"accounts/{session.account_id}/risk").json()

    assert told["correlations"] is None
    assert {row["detail"] for row in told["value_at_risk"]} == {
        "wanted candles of every market held over the same time, was too few"
    }

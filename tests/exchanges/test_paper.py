"""The paper gateway: virtual money in its own books, at the prices of a simulator that has no account of ours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from domain.market import OrderType, Side, Trigger
from exchanges.accounts import account_create
from exchanges.gateway import ExchangeUnavailable, Gateway, OrderOutcomeUnknown, OrderRejected, OrderTicket
from exchanges.models import Account, PaperBalance, PaperFill, PaperOrder
from exchanges.paper_gateway import PaperGateway
from exchanges.services import gateway_for
from tests.factories import make_user
from tests.race import at_once
from tests.venue import START_MS, Venue

SYMBOL = "BTC/USDT"
START = Decimal(10000)


def paper_account(venue: Venue, balance: Decimal = START, name: str = "paper") -> Account:
    return account_create(
        owner=make_user(), exchange=venue.exchange, name=name, currency="USDT", paper_balance=balance
    )  # fmt: skip


def opened(venue: Venue, account: Account) -> Gateway:
    """The account's gateway, with the venue's clock as it was last read."""
    venue.exchange.refresh_from_db()
    return gateway_for(venue.exchange, account)


@pytest.fixture
def paper(venue: Venue) -> Gateway:
    """A gateway to the only paper account, of 10,000 USDT."""
    return opened(venue, paper_account(venue))


def ticket(client_order_id: str = "order-1", **changes: Any) -> OrderTicket:
    """Buy 0.02 BTC at market, stamped now, unless ``changes`` say otherwise."""
    fields: dict[str, Any] = {
        "symbol": SYMBOL, "side": Side.BUY, "order_type": OrderType.MARKET, "quantity": Decimal("0.02"),
        "client_order_id": client_order_id, "sent_at": timezone.now(), "window_ms": 5000,
    }  # fmt: skip
    return OrderTicket(**{**fields, **changes})


def limit(client_order_id: str, side: Side, price: str, **changes: Any) -> OrderTicket:
    return ticket(client_order_id, side=side, order_type=OrderType.LIMIT, price=Decimal(price), **changes)


def stop(client_order_id: str, side: Side, level: str, **changes: Any) -> OrderTicket:
    """A sell that waits for a falling price, a buy for a rising one, unless ``changes`` say otherwise."""
    trigger = Trigger.FALLING if side is Side.SELL else Trigger.RISING
    fields = {"order_type": OrderType.STOP, "stop_price": Decimal(level), "trigger": trigger, **changes}
    return ticket(client_order_id, side=side, **fields)


def held(gateway: Gateway) -> dict[str, tuple[Decimal, Decimal]]:
    """Total and free of each currency."""
    return {one.currency: (one.total, one.free) for one in gateway.balances()}


def candles(venue: Venue, *rows: tuple[int, int, int, int]) -> None:
    """Minutes of open, high, low, close, the first opening at the venue's START_MS."""
    venue.simulator.control(
        "market/BTC-USDT/candles",
        candles=[[START_MS + i * 60_000, *map(float, row), 1.0] for i, row in enumerate(rows)],
    )


def test_a_market_order_is_filled_whole_at_the_next_price_with_slippage_and_fee(venue: Venue, paper: Gateway) -> None:
    order_id = paper.order_create(ticket())

    report = paper.order_get(SYMBOL, order_id)
    assert report == paper.order_find(SYMBOL, "order-1")
    assert report is not None
    [quote] = paper.quotes([SYMBOL])
    [fill] = paper.order_fills(SYMBOL, order_id)
    assert fill.price >= quote.ask * Decimal("1.0005")
    assert (report.filled, report.is_open, report.is_canceled) == (Decimal("0.02"), False, False)
    assert report.filled_quote == fill.price * Decimal("0.02")
    assert (fill.quantity, fill.fee_currency) == (Decimal("0.02"), "USDT")
    assert fill.fee == report.filled_quote * Decimal("0.001")
    assert fill.filled_at == datetime.fromtimestamp(START_MS / 1000, tz=UTC)
    left = START - report.filled_quote - fill.fee
    assert held(paper) == {"USDT": (left, left), "BTC": (Decimal("0.02"), Decimal("0.02"))}
    assert venue.simulator.oracle()["orders"] == []


def test_a_client_order_id_is_never_free_again(paper: Gateway) -> None:
    order_id = paper.order_create(ticket())

    with pytest.raises(OrderOutcomeUnknown, match="order-1 was used before"):
        paper.order_create(ticket(side=Side.SELL))

    found = paper.order_find(SYMBOL, "order-1")
    assert found is not None
    assert found.exchange_order_id == order_id
    assert PaperOrder.objects.count() == 1


def test_the_same_client_order_id_is_another_accounts_own(venue: Venue, paper: Gateway) -> None:
    other = opened(venue, paper_account(venue, name="second"))

    mine, theirs = paper.order_create(ticket()), other.order_create(ticket())

    assert other.order_get(SYMBOL, mine) is None
    assert paper.order_get(SYMBOL, theirs) is None
    assert [fill.exchange_order_id for fill in other.order_fills(SYMBOL, theirs)] == [theirs]
    assert other.order_fills(SYMBOL, mine) == []


def test_a_request_that_comes_after_its_window_changes_nothing(paper: Gateway) -> None:
    with pytest.raises(ExchangeUnavailable, match="wanted a request within 5000 ms"):
        paper.order_create(ticket(sent_at=timezone.now() - timedelta(seconds=6)))

    assert paper.order_find(SYMBOL, "order-1") is None
    assert held(paper) == {"USDT": (START, START)}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"quantity": Decimal("0.3")}, "INSUFFICIENT_BALANCE"),
        ({"side": Side.SELL}, "INSUFFICIENT_BALANCE"),
        ({"quantity": Decimal("0.000000001")}, "LOT_SIZE"),
        ({"quantity": Decimal(0)}, "BELOW_MIN_QUANTITY"),
        ({"symbol": "XYZ/USDT"}, "MARKET_NOT_TRADABLE"),
        ({"price": Decimal(50000)}, "PRICE_UNSUITABLE"),
        ({"order_type": OrderType.LIMIT}, "PRICE_UNSUITABLE"),
        ({"order_type": OrderType.STOP}, "PRICE_UNSUITABLE"),
        ({"order_type": OrderType.STOP, "stop_price": Decimal(51000)}, "PRICE_UNSUITABLE"),
        ({"trigger": Trigger.RISING}, "PRICE_UNSUITABLE"),
        (
            {"order_type": OrderType.STOP, "stop_price": Decimal("51000.01"), "trigger": Trigger.RISING},
            "TICK_SIZE",
        ),
        ({"order_type": OrderType.LIMIT, "price": Decimal("49000.01")}, "TICK_SIZE"),
        (
            {"order_type": OrderType.LIMIT, "price": Decimal("0.1"), "quantity": Decimal("0.00001")},
            "BELOW_MIN_NOTIONAL",
        ),
    ],
)
def test_what_a_venue_would_refuse_is_refused_and_leaves_no_trace(
    paper: Gateway, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(OrderRejected) as refusal:
        paper.order_create(ticket(**changes))

    assert refusal.value.code == code
    assert not PaperOrder.objects.exists()
    assert {name: total for name, total in held(paper).items() if total[0]} == {"USDT": (START, START)}


def test_a_resting_limit_holds_its_money_and_gives_it_back_when_cancelled(paper: Gateway) -> None:
    order_id = paper.order_create(limit("low", Side.BUY, "49000"))

    assert held(paper)["USDT"] == (START, START - Decimal("980.98"))
    assert [order.exchange_order_id for order in paper.orders_open(SYMBOL)] == [order_id]
    assert paper.symbols_open() == [SYMBOL]

    paper.order_cancel(SYMBOL, order_id)
    paper.order_cancel(SYMBOL, order_id)

    assert held(paper)["USDT"] == (START, START)
    [done] = paper.orders_done(SYMBOL, datetime.fromtimestamp(START_MS / 1000, tz=UTC))
    assert (done.exchange_order_id, done.is_open, done.is_canceled) == (order_id, False, True)
    assert (paper.orders_open(SYMBOL), paper.symbols_open()) == ([], [])


def test_a_limit_is_filled_when_the_quote_reaches_it(venue: Venue, paper: Gateway) -> None:
    order_id = paper.order_create(limit("low", Side.BUY, "49000"))
    venue.price("49100")
    assert paper.order_fills(SYMBOL, order_id) == []

    venue.price("48900")

    [fill] = paper.order_fills(SYMBOL, order_id)
    assert Decimal(48900) <= fill.price <= Decimal(49000)
    left = START - fill.price * Decimal("0.02") * Decimal("1.001")
    assert held(paper)["USDT"] == (left, left)


def test_a_limit_is_filled_by_a_candle_that_reached_it_between_two_looks(venue: Venue, paper: Gateway) -> None:
    order_id = paper.order_create(limit("low", Side.BUY, "49000"))
    candles(venue, (50000, 50000, 50000, 50000), (50000, 50100, 48000, 50000), (50000, 50000, 50000, 50000))
    venue.advance(180)

    [fill] = opened(venue, Account.objects.get()).order_fills(SYMBOL, order_id)

    assert (fill.price, fill.fee) == (Decimal(49000), Decimal("0.98"))
    assert fill.filled_at == datetime.fromtimestamp(START_MS / 1000 + 120, tz=UTC)


def test_a_stop_that_gaps_is_filled_at_the_open_with_slippage(venue: Venue, paper: Gateway) -> None:
    paper.order_create(ticket())
    order_id = paper.order_create(stop("stop", Side.SELL, "49000"))
    candles(venue, (50000, 50000, 50000, 50000), (48000, 48500, 47000, 48500), (50000, 50000, 50000, 50000))
    venue.advance(180)

    [fill] = opened(venue, Account.objects.get()).order_fills(SYMBOL, order_id)

    assert fill.price == Decimal(48000) * Decimal("0.9995")
    assert PaperBalance.objects.get(currency="BTC").total == 0


def test_a_stop_that_waits_for_a_rising_price_is_filled_at_the_open_of_a_gap_with_slippage(
    venue: Venue, paper: Gateway
) -> None:
    paper.order_create(ticket())
    order_id = paper.order_create(stop("target", Side.SELL, "51000", trigger=Trigger.RISING))
    candles(venue, (50000, 50000, 50000, 50000), (52000, 52500, 51500, 52000), (50000, 50000, 50000, 50000))
    venue.advance(180)

    [fill] = opened(venue, Account.objects.get()).order_fills(SYMBOL, order_id)

    assert fill.price == Decimal(52000) * Decimal("0.9995")
    assert fill.fee == fill.price * Decimal("0.02") * Decimal("0.001")


def test_a_stop_with_a_limit_takes_what_it_finds_within_it_or_rests_from_the_next_prices_on(
    venue: Venue, paper: Gateway
) -> None:
    paper.order_create(ticket(quantity=Decimal("0.04")))
    within = paper.order_create(stop("within", Side.SELL, "49000", price=Decimal(48900)))
    beyond = paper.order_create(stop("beyond", Side.SELL, "49000", price=Decimal(49500)))
    candles(venue, (50000, 50000, 50000, 50000), (50000, 50000, 48000, 48500), (48500, 49000, 48500, 49000))
    venue.advance(180)
    paper = opened(venue, Account.objects.get())

    [fill] = paper.order_fills(SYMBOL, within)
    resting = paper.order_get(SYMBOL, beyond)
    balance = held(paper)["BTC"]
    venue.price("49600")
    [later] = paper.order_fills(SYMBOL, beyond)

    assert (fill.price, fill.filled_at) == (Decimal(49000), datetime.fromtimestamp(START_MS / 1000 + 120, tz=UTC))
    assert resting is not None
    assert (resting.is_waiting, resting.is_open, resting.filled) == (False, True, Decimal(0))
    assert balance == (Decimal("0.02"), Decimal(0))
    assert later.price >= 49500


def test_a_stop_with_a_limit_that_cannot_be_held_for_when_it_is_met_is_cancelled(venue: Venue, paper: Gateway) -> None:
    order_id = paper.order_create(stop("up", Side.BUY, "51000", price=Decimal(50500), quantity=Decimal("0.19")))
    paper.order_create(ticket())

    venue.price("51100")

    report = paper.order_get(SYMBOL, order_id)
    assert report is not None
    assert (report.is_open, report.is_canceled, report.filled) == (False, True, Decimal(0))
    assert held(paper)["USDT"][0] == held(paper)["USDT"][1]


def test_a_candle_from_before_an_order_does_not_fill_it(venue: Venue, paper: Gateway) -> None:
    candles(venue, (50000, 50100, 48000, 50000), (50000, 50000, 50000, 50000), (50000, 50000, 50000, 50000))
    venue.advance(90)
    paper = opened(venue, Account.objects.get())
    order_id = paper.order_create(limit("low", Side.BUY, "49000"))
    venue.advance(90)

    assert opened(venue, Account.objects.get()).order_fills(SYMBOL, order_id) == []


def test_a_buy_stop_whose_gap_the_money_does_not_reach_is_cancelled(venue: Venue, paper: Gateway) -> None:
    order_id = paper.order_create(stop("up", Side.BUY, "51000", quantity=Decimal("0.19")))

    venue.price("60000")

    report = paper.order_get(SYMBOL, order_id)
    assert report is not None
    assert (report.is_open, report.is_canceled, report.filled) == (False, True, Decimal(0))
    assert held(paper)["USDT"] == (START, START)


def test_two_orders_at_once_cannot_spend_the_same_money(venue: Venue) -> None:
    account = paper_account(venue, Decimal(1100))

    def buy(number: int) -> str:
        return gateway_for(venue.exchange, account).order_create(ticket(f"order-{number}"))

    results = at_once([lambda number=number: buy(number) for number in range(4)])

    refused = [result for result in results if isinstance(result, OrderRejected)]
    assert [error.code for error in refused] == ["INSUFFICIENT_BALANCE"] * 3
    assert PaperOrder.objects.count() == PaperFill.objects.count() == 1


def test_the_same_order_sent_at_once_is_one_order(venue: Venue) -> None:
    account = paper_account(venue)

    results = at_once([lambda: gateway_for(venue.exchange, account).order_create(ticket())] * 3)

    assert sum(isinstance(result, OrderOutcomeUnknown) for result in results) == 2
    assert PaperOrder.objects.count() == 1


def test_matching_at_once_fills_an_order_once(venue: Venue, paper: Gateway) -> None:
    account = Account.objects.get()
    order_id = paper.order_create(limit("low", Side.BUY, "49000"))
    venue.price("48900")

    results = at_once([lambda: gateway_for(venue.exchange, account).order_fills(SYMBOL, order_id)] * 4)

    assert len({fill.trade_id for fills in results for fill in fills}) == 1
    assert PaperBalance.objects.get(currency="BTC").total == Decimal("0.02")


def test_what_dies_inside_leaves_nothing_half(paper: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PaperGateway, "_fill", dies)
    with pytest.raises(KeyboardInterrupt):
        paper.order_create(ticket())

    assert held(paper) == {"USDT": (START, START)}
    assert paper.order_find(SYMBOL, "order-1") is None


def test_it_is_never_called_within_a_transaction(paper: Gateway) -> None:
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        paper.order_create(ticket())

    assert not PaperOrder.objects.exists()


def test_a_venue_without_prices_takes_no_order(venue: Venue, paper: Gateway) -> None:
    venue.fault(path="*", kind="http", status=503, body="")

    with pytest.raises(ExchangeUnavailable):
        paper.order_create(ticket())

    assert not PaperOrder.objects.exists()


def test_fills_are_listed_by_the_venues_time(paper: Gateway) -> None:
    paper.order_create(ticket())
    at = datetime.fromtimestamp(START_MS / 1000, tz=UTC)

    assert [fill.side for fill in paper.fills_since(SYMBOL, at)] == [Side.BUY]
    assert paper.fills_since(SYMBOL, at + timedelta(seconds=1)) == []

"""Limits: each one's figure before and after an order, the room it leaves, and what it says when it is broken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.limits import (
    Book,
    Candidate,
    Check,
    Holding,
    Limits,
    Past,
    Returns,
    denied_by,
    periods_of,
    portfolio,
    rooms_of,
    weigh,
)
from domain.market import PositionSide
from domain.orders import Denial
from domain.risk import VarMethod, book_risk

D = Decimal
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
LONG, SHORT = PositionSide.LONG, PositionSide.SHORT


def holding(notional: str, market: str = "BTC/USDT", risk: str = "0", position_id: int = 1) -> Holding:
    return Holding(position_id, market, market.split("/")[0], D(notional), D(risk))


def candidate(side: PositionSide = LONG, market: str = "BTC/USDT", **fields: Any) -> Candidate:
    defaults: dict[str, Any] = {"risk_fraction": D("0.02")}
    return Candidate(market, market.split("/")[0], side, **{**defaults, **fields})


def book(*holdings: Holding, equity: str = "10000") -> Book:
    return Book(D(equity), holdings)


def weighed(
    limits: dict[str, Any],
    held: Book | None = None,
    order: Candidate | None = None,
    past: Past | None = None,
    wish: str = "1000",
    returns: Returns | None = None,
) -> list[Check]:
    given_limits: dict[str, Any] = {
        name: D(value) if isinstance(value, str) and name != "var_method" else value for name, value in limits.items()
    }
    return weigh(Limits(**given_limits), held or book(), past or Past(), order or candidate(), D(wish), returns, NOON)


def only(checks: list[Check]) -> Check:
    [check] = checks
    return check


def test_without_limits_nothing_is_measured() -> None:
    assert weighed({}) == []


@pytest.mark.parametrize(
    ("limit", "holdings", "order", "before", "room", "code"),
    [
        ({"max_exposure": "1500"}, [holding("800"), holding("-200")], {}, "1000", "500", Denial.MAX_EXPOSURE),
        ({"max_exposure_percent": "20"}, [holding("800")], {}, "800", "1200", Denial.MAX_EXPOSURE),
        ({"max_exposure": "1500"}, [holding("491")], {"margin": D("0.009")}, "491", "1000", Denial.MAX_EXPOSURE),
        (
            {"max_market_exposure_percent": "10"},
            [holding("400"), holding("5000", "ETH/USDT")],
            {},
            "400",
            "600",
            Denial.MAX_MARKET_EXPOSURE,
        ),
        (
            {"max_currency_exposure_percent": "10"},
            [holding("300"), holding("-300", "BTC/USDT:USDT"), holding("9", "ETH/USDT")],
            {},
            "600",
            "400",
            Denial.MAX_CURRENCY_EXPOSURE,
        ),
        ({"max_net_exposure_percent": "10"}, [holding("800")], {}, "800", "200", Denial.MAX_NET_EXPOSURE),
        ({"max_net_exposure_percent": "10"}, [holding("800")], {"side": SHORT}, "800", "1800", Denial.MAX_NET_EXPOSURE),
        ({"max_net_exposure_percent": "10"}, [holding("-800")], {"side": SHORT}, "800", "200", Denial.MAX_NET_EXPOSURE),
        ({"max_open_risk_percent": "1"}, [holding("800", risk="60")], {}, "60", "2000", Denial.MAX_OPEN_RISK),
        ({"max_open_risk_percent": "1"}, [], {"risk_fraction": D(1)}, "0", "100", Denial.MAX_OPEN_RISK),
        (
            {"max_risk_per_trade_percent": "0.5"},
            [holding("800", risk="30", position_id=7), holding("1", risk="999", position_id=8)],
            {"position_id": 7},
            "30",
            "1000",
            Denial.MAX_RISK_PER_TRADE,
        ),
        ({"max_risk_per_trade_percent": "0.5"}, [holding("1", risk="999")], {}, "0", "2500", Denial.MAX_RISK_PER_TRADE),
    ],
)
def test_each_limit_leaves_the_room_between_its_figure_and_its_bound(
    limit: dict[str, Any], holdings: list[Holding], order: dict[str, Any], before: str, room: str, code: Denial
) -> None:
    check = only(weighed(limit, book(*holdings), candidate(**order)))

    assert (check.figure(D(0)), check.room, check.code) == (D(before), D(room), code)
    assert not check.is_broken
    assert check.figure(D(room)) == check.bound


def test_leverage_bounds_each_position_and_the_whole_account() -> None:
    own, all_of_it = weighed({"max_leverage": "2"}, book(holding("19500")), candidate(leverage=D(3)))

    assert (own.is_broken, own.figure(D(1)), own.bound) == (True, D(3), D(2))
    assert (all_of_it.room, all_of_it.bound, all_of_it.code) == (D(500), D(20000), Denial.MAX_LEVERAGE)
    assert not weighed({"max_leverage": "3"}, order=candidate(leverage=D(3)))[0].is_broken


@pytest.mark.parametrize(
    ("count", "position_id", "is_broken", "after"),
    [(1, None, False, 2), (2, None, True, 3), (2, 1, False, 2), (2, 9, True, 3)],
)
def test_a_position_that_is_held_takes_no_second_place(
    count: int, position_id: int | None, is_broken: bool, after: int
) -> None:
    held = book(*(holding("10", position_id=number) for number in range(1, count + 1)))

    check = only(weighed({"max_open_positions": 2}, held, candidate(position_id=position_id)))

    assert (check.is_broken, check.figure(D(5))) == (is_broken, D(after))


@pytest.mark.parametrize(("sent", "is_broken"), [(0, False), (2, False), (3, True)])
def test_entries_a_minute_are_counted(sent: int, is_broken: bool) -> None:
    check = only(weighed({"max_orders_per_minute": 3}, past=Past(entries_last_minute=sent)))

    assert (check.is_broken, check.figure(D(0)), check.figure(D(5))) == (is_broken, D(sent), D(sent + 1))


@pytest.mark.parametrize(
    ("limit", "past", "figure", "is_broken"),
    [
        ({"max_daily_loss_percent": "2"}, Past(day_start_equity=D(10200)), "200", False),  # 204 are allowed
        ({"max_daily_loss_percent": "2"}, Past(day_start_equity=D("10204.08163266")), "204.08163266", True),
        ({"max_daily_loss_percent": "2"}, Past(day_start_equity=D(9000)), "0", False),
        ({"max_daily_loss_percent": "2"}, Past(), "0", False),
        ({"max_daily_loss_percent": "0"}, Past(day_start_equity=D(10000)), "0", False),
        ({"max_daily_loss_percent": "0"}, Past(day_start_equity=D("10000.01")), "0.01", True),
        ({"max_drawdown_percent": "20"}, Past(peak_equity=D(12500)), "2500", True),
        ({"max_drawdown_percent": "20"}, Past(peak_equity=D("12499.99")), "2499.99", False),
    ],
)
def test_a_loss_stops_entries_once_it_is_as_large_as_allowed(
    limit: dict[str, Any], past: Past, figure: str, is_broken: bool
) -> None:
    check = only(weighed(limit, past=past))

    assert (check.figure(D(0)), check.is_broken, check.room) == (D(figure), is_broken, None)


@pytest.mark.parametrize(("price", "is_broken"), [("105", False), ("105.01", True), ("95", False), ("94.99", True)])
def test_a_price_outside_the_band_is_refused(price: str, is_broken: bool) -> None:
    order = candidate(named_price=D(price), last_price=D(100))

    assert only(weighed({"price_band_percent": "5"}, order=order)).is_broken is is_broken
    assert weighed({"price_band_percent": "5"}) == []  # a market order names none


@pytest.mark.parametrize(
    ("results", "minutes_ago", "is_broken"),
    [([-1, -2], 59, True), ([-1, -2], 60, False), ([-1, 0], 5, False), ([0, -1, -1], 5, False), ([-1], 5, False)],
)
def test_losses_in_a_row_rest_for_a_while(results: list[int], minutes_ago: int, is_broken: bool) -> None:
    closed = [(D(result), NOON - timedelta(minutes=minutes_ago)) for result in results]

    session, account = weighed({"cooldown_losses": 2}, past=Past(closed_by_session=closed))

    assert (session.is_broken, account.is_broken) == (is_broken, False)
    assert denied_by([session, account]) == (Denial.COOLDOWN if is_broken else None)


# -- limits on how markets moved -----------------------------------------------------------------------------------------


def history(*columns: Any, period: timedelta = timedelta(hours=1), names: tuple[str, ...] = ()) -> Returns:
    markets = names or ("BTC/USDT", "ETH/USDT")[: len(columns)]
    return Returns(markets, np.column_stack(columns).astype(np.float64), period)


WAVE = np.sin(np.arange(200) ** 2) / 50
OTHER = np.cos(np.arange(200) ** 3) / 50


@pytest.mark.parametrize("limit", ["max_correlated_exposure_percent", "max_var_percent", "max_cvar_percent"])
def test_what_cannot_be_measured_is_denied(limit: str) -> None:
    short = history(WAVE[:29])
    elsewhere = history(WAVE, names=("ETH/USDT",))

    for returns in (None, short, elsewhere):
        check = only(weighed({limit: "5"}, returns=returns))
        assert (check.code, check.is_broken) == (Denial.NO_HISTORY, True)
    held_elsewhere = only(weighed({limit: "5"}, book(holding("5", "SOL/USDT")), returns=history(WAVE)))
    assert held_elsewhere.code == Denial.NO_HISTORY


def test_a_horizon_that_history_does_not_reach_is_denied() -> None:
    limits = {"max_var_percent": "5", "var_horizon_hours": 190}

    assert only(weighed(limits, returns=history(WAVE))).code == Denial.NO_HISTORY


def test_markets_that_move_as_one_add_up_and_opposite_bets_cancel() -> None:
    held, returns = book(holding("800", "ETH/USDT")), history(WAVE, WAVE)
    limits = {"max_correlated_exposure_percent": "10"}

    along = only(weighed(limits, held, returns=returns))
    against = only(weighed(limits, held, candidate(SHORT), returns=returns))

    assert round(along.figure(D(0)), 9) == 800
    assert round(along.figure(D(100)), 9) == 900
    assert along.room is not None
    assert D(199) < along.room <= 200
    assert (round(against.figure(D(800)), 4), against.room) == (D(0), None)


@pytest.mark.parametrize("method", list(VarMethod))
@pytest.mark.parametrize(("limit", "name"), [("max_var_percent", "var"), ("max_cvar_percent", "cvar")])
def test_an_order_is_cut_to_the_value_at_risk_that_is_allowed(method: VarMethod, limit: str, name: str) -> None:
    returns = history(WAVE, OTHER)
    held = book(holding("1000", "ETH/USDT"))
    limits = {limit: "1", "var_method": method.value, "var_horizon_hours": 4}

    check = only(weighed(limits, held, wish="50000", returns=returns))

    def loss(notional: float) -> float:
        risk = book_risk(
            returns.matrix, np.array([notional, 1000.0]), method=method, confidence=0.95, horizon=4
        )  # fmt: skip
        return float(getattr(risk, name))

    assert check.room is not None
    assert 0 < check.room < 50000
    assert float(check.figure(check.room)) == pytest.approx(loss(float(check.room)), abs=1e-9)
    assert loss(float(check.room)) <= 100 < loss(float(check.room) + 50000 / 2**11)


def test_an_order_that_fits_whole_is_not_cut() -> None:
    assert only(weighed({"max_var_percent": "50"}, returns=history(WAVE))).room is None


def test_a_horizon_is_counted_in_periods_begun() -> None:
    limits = Limits(var_horizon_hours=6)

    assert periods_of(limits, history(WAVE)) == 6
    assert periods_of(limits, history(WAVE, period=timedelta(hours=4))) == 2
    assert periods_of(limits, history(WAVE, period=timedelta(days=1))) == 1


def test_a_book_is_laid_out_as_the_returns_are() -> None:
    held = book(holding("5", "ETH/USDT"), holding("-2", "BTC/USDT"), holding("1", "BTC/USDT"))

    laid_out = portfolio(held, history(WAVE, OTHER))

    assert laid_out is not None
    assert laid_out.tolist() == [-1, 5]
    assert portfolio(held, history(WAVE)) is None


# -- what is stored ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("notional", "verdict", "after"), [("500", "CUT", "500"), ("0", "DENIED", "1000")])
def test_a_check_tells_what_became_of_the_wish(notional: str, verdict: str, after: str) -> None:
    told = only(weighed({"max_exposure": "500"})).told(D(1000), D(notional))

    assert (told["verdict"], told["after"], told["room"], told["bound"]) == (verdict, after, "500", "500")


def test_a_check_that_was_met_says_so() -> None:
    assert only(weighed({"max_exposure": "5000"})).told(D(1000), D(1000)) == {
        "limit": "max_exposure", "code": "MAX_EXPOSURE", "unit": "quote", "before": "0", "after": "1000", "bound": "5000",
        "margin": "4000", "room": "5000", "verdict": "PASSED",
    }  # fmt: skip


amounts = st.decimals(min_value=-5000, max_value=5000, places=2)


@given(
    held=st.lists(amounts, max_size=4),
    bounds=st.lists(st.none() | st.decimals(min_value=0, max_value=100, places=1), min_size=6, max_size=6),
    side=st.sampled_from(PositionSide),
    wish=st.decimals(min_value=1, max_value=10_000, places=2),
)
@settings(max_examples=150)
def test_an_order_cut_to_its_rooms_never_leaves_a_limit_further_broken(
    held: list[Decimal], bounds: list[Decimal | None], side: PositionSide, wish: Decimal
) -> None:
    names = (
        "max_exposure_percent", "max_net_exposure_percent", "max_market_exposure_percent",
        "max_currency_exposure_percent", "max_risk_per_trade_percent", "max_open_risk_percent",
    )  # fmt: skip
    given_book = book(*(Holding(number, "BTC/USDT", "BTC", one, abs(one) / 10) for number, one in enumerate(held)))
    chosen: dict[str, Any] = dict(zip(names, bounds, strict=True))
    limits = Limits(**chosen)
    order = candidate(side, margin=D("0.006"))

    checks = weigh(limits, given_book, Past(), order, wish, None, NOON)
    notional = max(min([wish, *(room.notional for room in rooms_of(checks))]), D(0))

    hair = D("1e-18")
    assert all(check.figure(notional) <= max(check.bound, check.figure(D(0))) + hair for check in checks)

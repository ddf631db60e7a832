"""The equity curve: a point per tick of whatever trades, exact figures, written once; and what is left of it with age."""

from __future__ import annotations

import sys
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from domain.market import PositionSide
from domain.orders import OrderStatus
from exchanges.models import Account, Exchange, Market
from money import equity
from money.book import account_book
from money.equity import equity_record, equity_thin, tick_of
from money.models import EquityPoint
from money.tasks import record_equity, thin_equity
from orders.models import Fill
from positions.models import Position, PositionStatus
from sessions.models import SessionStatus, TradingSession
from tests.factories import (
    make_account,
    make_balance,
    make_config,
    make_fill,
    make_open_position,
    make_order,
    make_position,
    make_quote,
    make_session,
    make_user,
)
from tests.pipeline.test_overlaps import somebody_waits_for_a_row
from tests.race import at_once, happens_after
from tests.workers import wait_until

pytestmark = pytest.mark.django_db

D = Decimal
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
# On the grid of every session's tick of five minutes.
TICK = datetime(2030, 5, 1, 12, tzinfo=UTC)
FIGURES = ("equity", "realized_pnl", "unrealized_pnl", "fees", "funding", "exposure", "peak", "drawdown")


@pytest.fixture
def account() -> Account:
    return make_account()


@pytest.fixture
def session(account: Account) -> TradingSession:
    """It bought 0.02 for 1,000 and a fee of 1; the price is 51,000 since."""
    session = make_session(account)
    make_open_position(session)
    make_quote(session.config.feed.market, "51000")
    make_balance(account, "8999")
    return session


def points(**subject: Any) -> list[EquityPoint]:
    return list(EquityPoint.objects.filter(**subject).order_by("at", "pk"))


def figures(point: EquityPoint) -> tuple[Any, ...]:
    return tuple(getattr(point, name) for name in FIGURES)


def close(session: TradingSession, realized: str, **fields: Any) -> None:
    """The session's position as it is once all has been sold."""
    values = {
        "status": PositionStatus.CLOSED,
        "quantity": 0,
        "unrealized_pnl": 0,
        "realized_pnl": D(realized),
        **fields,
    }
    Position.objects.filter(session=session).update(**{"folded_at": TICK + MINUTE, **values})
    TradingSession.objects.filter(pk=session.pk).update(has_exposure=False)


def price(session: TradingSession, last: str) -> None:
    make_quote(session.config.feed.market, last)


# What a point says.


def test_a_tick_writes_what_session_account_and_owner_are_worth(session: TradingSession, account: Account) -> None:
    record_equity()

    [of_session], [of_account], [of_owner] = (
        points(session=session), points(account=account), points(owner=account.owner),
    )  # fmt: skip
    assert EquityPoint.objects.count() == 3
    assert figures(of_session) == (19, -1, 20, 1, 0, 1020, 19, 0)
    assert figures(of_account) == figures(of_owner) == (10019, -1, 20, 1, 0, 1020, 10019, 0)
    assert {point.currency for point in points()} == {"USDT"}
    assert {point.at for point in points()} == {tick_of(of_session.at, 5 * MINUTE)}


def test_a_drawdown_is_from_the_highest_point_before(session: TradingSession, account: Account) -> None:
    for minutes, last in ((0, "51000"), (5, "45000"), (10, "48000")):
        price(session, last)
        equity_record(TICK + minutes * MINUTE)

    of_session = [(point.equity, point.peak, point.drawdown) for point in points(session=session)]
    assert of_session == [(19, 19, 0), (-101, 19, 120), (-41, 19, 60)]
    of_account = [(point.equity, point.peak, point.drawdown) for point in points(account=account)]
    exact = D("0.000000000000000001")
    assert of_account == [
        (10019, 10019, 0),
        (9899, 10019, (D(120) / 10019).quantize(exact)),
        (9959, 10019, (D(60) / 10019).quantize(exact)),
    ]


def test_a_part_that_was_sold_and_fees_in_base_currency_are_counted_to_the_last_digit(session: TradingSession) -> None:
    # 0.02 bought at 50,000, of which the venue kept 0.0001; 0.01 sold at 52,000 for a fee of 2.
    Position.objects.update(
        exited=D("0.01"), exit_price=D(52000), quantity=D("0.0099"), fees=D(3), funding=D("-0.5"), realized_pnl=D(17)
    )

    equity_record(TICK)

    # 520 came in, 1,000 went out, 504.9 are held.
    [point] = points(session=session)
    assert figures(point) == (D("21.4"), D("11.5"), D("9.9"), 3, D("-0.5"), D("504.9"), D("21.4"), 0)


def test_contracts_are_counted_by_their_size_and_a_short_gains_when_the_price_falls(session: TradingSession) -> None:
    Market.objects.update(contract_size=D("0.001"))
    Position.objects.update(side=PositionSide.SHORT, quantity=D(20), entered=D(20), fees=D(1), funding=D("0.3"))
    price(session, "49000")

    equity_record(TICK)

    [point] = points(session=session)
    assert figures(point) == (D("19.3"), D("-0.7"), 20, 1, D("0.3"), 980, D("19.3"), 0)


def test_all_positions_of_a_session_are_counted_and_what_is_held_without_a_price_at_what_it_cost(
    session: TradingSession,
) -> None:
    make_position(session, PositionStatus.CLOSED, realized_pnl=D("-7.5"), fees=D(2), funding=D(1), entered=D(1))
    make_position(session, PositionStatus.ABANDONED)
    session.config.feed.market.last_quote.delete()

    equity_record(TICK)

    [point] = points(session=session)
    assert figures(point) == (D("-7.5"), D("-7.5"), 0, 3, 1, 1000, D("-7.5"), 0)


def test_an_owner_is_worth_all_accounts_of_a_currency_together(session: TradingSession, account: Account) -> None:
    make_account(name="savings", usdt="500")  # nothing trades there
    make_account(name="unread", usdt=None)
    euros = make_account(name="euros", usdt=None)
    Account.objects.filter(pk=euros.pk).update(currency="EUR")
    make_balance(euros, "70", currency="EUR")
    make_session(euros, session.config)
    make_session(make_account(owner=make_user("bob"), usdt="3"), make_config(owner=make_user("bob")))

    equity_record(TICK)

    of_owners = EquityPoint.objects.exclude(owner=None).values_list("owner__username", "currency", "equity")
    of_accounts = EquityPoint.objects.exclude(account=None).values_list("account__name", flat=True)
    assert set(of_owners) == {("alice", "USDT", D(10519)), ("alice", "EUR", D(70)), ("bob", "USDT", D(3))}
    assert sorted(of_accounts) == ["euros", "main", "main"]  # the other one is bob's


def test_an_account_whose_balance_was_never_read_has_no_point(session: TradingSession, account: Account) -> None:
    Account.objects.update(balances_synced_at=None)

    equity_record(TICK)

    assert [point.session for point in points()] == [session]


# Who has a point, and when.


def test_a_tick_is_written_once_and_the_next_one_anew(session: TradingSession, account: Account) -> None:
    for seconds in (0, 30, 299, 300):
        equity_record(TICK + timedelta(seconds=seconds))

    for subject in ({"session": session}, {"account": account}, {"owner": account.owner}):
        assert [point.at for point in points(**subject)] == [TICK, TICK + 5 * MINUTE]


def test_a_tick_that_nobody_wrote_is_made_up_for_by_the_next_run(session: TradingSession) -> None:
    equity_record(TICK)
    price(session, "40000")
    equity_record(TICK + 27 * MINUTE)

    assert [(point.at, point.equity) for point in points(session=session)] == [
        (TICK, 19),
        (TICK + 25 * MINUTE, -201),
    ]


@pytest.mark.django_db(transaction=True)
def test_runs_at_once_write_a_tick_once(session: TradingSession) -> None:
    results = at_once([lambda: equity_record(TICK)] * 5)

    assert all(isinstance(result, int) for result in results), results
    assert [(point.at, point.equity) for point in points()] == [(TICK, 19), (TICK, 10019), (TICK, 10019)]


@pytest.mark.django_db(transaction=True)
def test_who_comes_while_a_tick_is_being_written_leaves_it_at_that(session: TradingSession) -> None:
    second: list[Any] = []
    late = threading.Thread(target=lambda: second.extend(at_once([lambda: equity_record(TICK)])), daemon=True)

    with transaction.atomic():
        first = equity_record(TICK)
        late.start()
        wait_until(somebody_waits_for_a_row, "the second run at the session's point", seconds=10)
    late.join(10)

    assert (first, second) == (3, [0])
    assert EquityPoint.objects.count() == 3


@pytest.mark.django_db(transaction=True)
def test_somebody_else_who_wrote_first_is_no_trouble(
    session: TradingSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    happens_after(monkeypatch, equity, "_accounts_at_work", lambda: equity_record(TICK))

    equity_record(TICK)

    assert EquityPoint.objects.count() == 3
    assert caplog.text == ""


def test_a_run_that_comes_after_a_later_one_writes_nothing_behind_it(session: TradingSession) -> None:
    equity_record(TICK + 5 * MINUTE)

    written = equity_record(TICK)

    assert written == 0
    assert {point.at for point in points()} == {TICK + 5 * MINUTE}


def test_a_session_s_tick_is_as_long_as_its_venue_s_clock_makes_it(session: TradingSession) -> None:
    Exchange.objects.update(clock_speed=10.0)  # five minutes of its own take thirty seconds

    for seconds in (0, 29, 30, 59):
        equity_record(TICK + timedelta(seconds=seconds))

    assert [point.at for point in points(session=session)] == [TICK, TICK + timedelta(seconds=30)]
    assert points(session=session)[1].at == points(account=session.account)[1].at


@pytest.mark.parametrize(("speed", "seconds"), [(0.0, 1), (10_000.0, 1)])
def test_a_clock_that_stands_or_races_ticks_every_second(session: TradingSession, speed: float, seconds: int) -> None:
    Exchange.objects.update(clock_speed=speed)

    for part in (0, 500, 1000):
        equity_record(TICK + timedelta(milliseconds=part))

    expected = [TICK, TICK + timedelta(seconds=seconds)]
    assert [point.at for point in points(session=session)] == expected
    assert [point.at for point in points(owner__isnull=False)] == expected


def test_account_and_owner_go_by_the_shortest_tick_of_their_sessions(session: TradingSession, account: Account) -> None:
    quick = make_session(account, make_config(feed=session.config.feed), tick_seconds=60)
    make_session(account, make_config(feed=session.config.feed), tick_seconds=10, status=SessionStatus.CREATED)

    for minutes in (0, 1, 2):
        equity_record(TICK + minutes * MINUTE)

    assert quick.status == SessionStatus.ACTIVE
    assert len(points(session=session)) == 1
    assert len(points(account=account)) == len(points(owner=account.owner)) == 3


def test_a_session_that_holds_nothing_has_one_more_point_and_then_none_until_something_happens(
    session: TradingSession,
) -> None:
    equity_record(TICK)
    close(session, "12.5")
    for minutes in (5, 10, 15):
        equity_record(TICK + minutes * MINUTE)
    Position.objects.update(realized_pnl=D(12), folded_at=TICK + 16 * MINUTE)  # a late fill
    equity_record(TICK + 20 * MINUTE)

    assert [(point.at, point.equity) for point in points(session=session)] == [
        (TICK, 19),
        (TICK + 5 * MINUTE, D("12.5")),
        (TICK + 20 * MINUTE, 12),
    ]


def test_a_round_trip_within_a_tick_is_on_the_curve(session: TradingSession) -> None:
    close(session, "3", folded_at=TICK)

    equity_record(TICK)

    assert [point.equity for point in points(session=session)] == [3]


def test_a_session_that_never_traded_has_no_point(account: Account) -> None:
    make_session(account)

    equity_record(TICK)

    assert [(point.session, point.equity) for point in points()] == [(None, 10000), (None, 10000)]


def test_what_has_stopped_has_its_last_point_and_no_more(session: TradingSession, account: Account) -> None:
    equity_record(TICK)
    close(session, "12.5")
    TradingSession.objects.update(status=SessionStatus.STOPPED, stopped_at=TICK + MINUTE)
    make_balance(account, "10012.5")
    for minutes in (5, 10):
        equity_record(TICK + minutes * MINUTE)

    assert [point.equity for point in points(session=session)] == [19, D("12.5")]
    assert [point.equity for point in points(account=account)] == [10019, D("10012.5")]
    assert [point.equity for point in points(owner=account.owner)] == [10019, D("10012.5")]


# Accounts in motion: their books err on the cautious side, which is no point of a curve.


def test_an_account_is_waited_for_until_its_balance_knows_of_its_fills(
    session: TradingSession, account: Account
) -> None:
    equity_record(TICK)
    Account.objects.update(balances_synced_at=F("balances_synced_at") - MINUTE)  # the fill came after it

    equity_record(TICK + 5 * MINUTE)
    waiting = len(points(account=account)), len(points(owner=account.owner)), len(points(session=session))
    make_balance(account, "8999")
    equity_record(TICK + 6 * MINUTE)

    assert waiting == (1, 1, 2)
    assert [point.at for point in points(account=account)] == [TICK, TICK + 5 * MINUTE]
    assert [point.at for point in points(owner=account.owner)] == [TICK, TICK + 5 * MINUTE]


def test_an_account_is_waited_for_while_it_sells(session: TradingSession, account: Account) -> None:
    order = make_order(Position.objects.get(), "EXIT", OrderStatus.OPENED, sent_at=timezone.now())
    make_balance(account, "8999")  # read after the order was sent: the venue may have counted its fill, or not

    equity_record(TICK)
    waiting = len(points(account=account))
    type(order).objects.update(status=OrderStatus.CANCELED)
    equity_record(TICK)

    assert waiting == 0
    assert [point.equity for point in points(account=account)] == [10019]


def test_an_account_that_does_not_come_to_rest_has_its_point_all_the_same(
    session: TradingSession, account: Account
) -> None:
    equity_record(TICK)
    Fill.objects.update(recorded_at=F("recorded_at") + DAY)

    equity_record(TICK + 9 * MINUTE)
    equity_record(TICK + 10 * MINUTE)

    assert [point.at for point in points(account=account)] == [TICK, TICK + 10 * MINUTE]


@pytest.mark.django_db(transaction=True)
def test_a_fill_in_the_middle_of_reading_a_book_is_not_half_of_it(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(account)
    price(session, "50000")
    order = make_order(make_position(session), status=OrderStatus.OPENED, reserved=D(1006))
    book = sys.modules[account_book.__module__]
    happens_after(monkeypatch, book, "_flow_since", lambda: make_fill(order))

    equity_record(TICK)

    assert [point.equity for point in points(account=account)] == [10000]


def test_one_owner_s_book_that_cannot_be_read_does_not_keep_others_from_theirs(
    session: TradingSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bob = make_user("bob")
    make_session(make_account(owner=bob), make_config(owner=bob))

    def failing(account: Account) -> Any:
        if account.owner != bob:
            raise RuntimeError("out of order")
        return account_book(account)

    monkeypatch.setattr(equity, "account_book", failing)
    equity_record(TICK)

    assert [point.owner for point in points(owner__isnull=False)] == [bob]
    assert f"no equity was recorded for owner {session.account.owner_id}" in caplog.text


def test_sessions_cost_no_queries_of_their_own(session: TradingSession, account: Account) -> None:
    with CaptureQueriesContext(connection) as of_one:
        equity_record(TICK)
    for _ in range(5):
        make_open_position(make_session(account, make_config(feed=session.config.feed)))
    make_balance(account, "8999")

    with CaptureQueriesContext(connection) as of_six:
        equity_record(TICK + 5 * MINUTE)

    assert EquityPoint.objects.filter(session__isnull=False).count() == 7
    assert len(of_six) == len(of_one)


# Thinning.


def make_points(ages: dict[str, timedelta], values: dict[str, int] | None = None, **subject: Any) -> dict[int, str]:
    """A point for each name, so old at TICK; their names by id."""
    rows = {
        name: EquityPoint.objects.create(
            at=TICK - age, equity=(values or {}).get(name, 100), peak=1000, currency="USDT", **subject
        )
        for name, age in ages.items()
    }
    return {row.pk: name for name, row in rows.items()}


def left(names: dict[int, str]) -> set[str]:
    return {names[pk] for pk in EquityPoint.objects.values_list("pk", flat=True)}


def test_points_are_thinned_to_hours_after_two_days_and_to_days_after_sixty(session: TradingSession) -> None:
    names = make_points(
        {
            "now": 0 * HOUR, "last hour": HOUR, "five minutes before it": HOUR + 5 * MINUTE,
            "in two days": 2 * DAY, "of an hour, last": 2 * DAY + 1 * MINUTE, "of an hour": 2 * DAY + 40 * MINUTE,
            "of an hour, first": 2 * DAY + HOUR, "of the hour before": 2 * DAY + HOUR + MINUTE,
            "of a young day": 60 * DAY - HOUR, "of a day, last": 60 * DAY + 13 * HOUR, "of a day": 60 * DAY + 20 * HOUR,
            "of a day, first": 61 * DAY + 12 * HOUR, "of the day before": 61 * DAY + 12 * HOUR + MINUTE,
        },
        {"now": 101}, session=session,
    )  # fmt: skip
    oldest = make_points({"oldest": 400 * DAY}, {"oldest": 102}, session=session)

    gone = equity_thin(TICK)
    once = left(names | oldest)
    again = equity_thin(TICK)

    thinned = {"of an hour", "of an hour, first", "of a day", "of a day, first"}
    assert once == ({*names.values()} | {"oldest"}) - thinned
    assert (gone, again) == (4, 0)


def test_an_hour_is_thinned_when_all_of_it_is_old(session: TradingSession) -> None:
    names = make_points(
        {"high": 3 * DAY, "first": 2 * DAY + 20 * MINUTE, "last": 2 * DAY + 10 * MINUTE}, {"high": 101}, session=session
    )

    early = equity_thin(TICK - timedelta(microseconds=1))
    late = equity_thin(TICK)

    assert (early, late) == (0, 1)
    assert left(names) == {"high", "last"}


def test_the_highest_point_and_the_newest_are_never_thinned(session: TradingSession) -> None:
    ages = {"newest": 90 * DAY + 13 * HOUR, "flat": 90 * DAY + 14 * HOUR, "again as high": 90 * DAY + 15 * HOUR}
    values = {"newest": 50, "flat": 90, "again as high": 200, "highest": 200, "low": 40}
    names = make_points({**ages, "highest": 90 * DAY + 16 * HOUR, "low": 90 * DAY + 17 * HOUR}, values, session=session)

    equity_thin(TICK)

    assert left(names) == {"newest", "highest"}


def test_every_subject_is_thinned_by_itself(session: TradingSession, account: Account) -> None:
    other = make_session(account, make_config(feed=session.config.feed))
    ages = {"high": 2 * DAY + 3 * MINUTE, "gone": 2 * DAY + 2 * MINUTE, "last": 2 * DAY + MINUTE}
    subjects: list[dict[str, Any]] = [
        {"session": session}, {"session": other}, {"account": account}, {"owner": account.owner},
    ]  # fmt: skip
    names: dict[int, str] = {}
    for subject in subjects:
        names |= make_points(ages, {"high": 101}, **subject)

    gone = equity_thin(TICK)

    assert gone == 4
    assert {tuple(point.at for point in points(**subject)) for subject in subjects} == {
        (TICK - ages["high"], TICK - ages["last"])
    }


def test_subjects_are_thinned_in_batches_and_by_the_task(
    session: TradingSession, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equity, "THIN_BATCH", 1)
    noon = datetime(2020, 5, 1, 12, tzinfo=UTC)
    for one in (session, make_session(account, make_config(feed=session.config.feed))):
        for minute in range(3):
            EquityPoint.objects.create(
                session=one, at=noon + minute * MINUTE, equity=3 - minute, peak=3, currency="USDT"
            )

    thin_equity()

    assert [point.at.minute for point in points()] == [0, 0, 2, 2]


@pytest.mark.django_db(transaction=True)
def test_thinning_at_once_leaves_the_same_points(session: TradingSession) -> None:
    make_points({f"{minute}": 2 * DAY + minute * MINUTE for minute in range(1, 20)}, session=session)

    results = at_once([lambda: equity_thin(TICK)] * 3)

    assert sum(results) == 17
    assert [TICK - point.at for point in points()] == [2 * DAY + 19 * MINUTE, 2 * DAY + MINUTE]


@pytest.mark.parametrize("every", [timedelta(seconds=30), 5 * MINUTE, DAY])
def test_ticks_lie_on_a_grid_since_the_epoch(every: timedelta) -> None:
    moment = datetime(2024, 5, 1, 23, 59, 59, 999_999, tzinfo=UTC)

    assert tick_of(moment, every).timestamp() % every.total_seconds() == 0
    assert moment - every < tick_of(moment, every) <= moment

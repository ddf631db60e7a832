"""Halts: what a trip cancels, denies and closes, over which scope, and that it ends by a deliberate act only."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from domain.orders import Denial, OrderStatus
from exchanges.gateway import ExchangeUnavailable
from exchanges.models import Account
from money import halts, services, tasks
from money.halts import halt_carry_out, halt_in_force, halt_is_liftable, halt_lift, halt_trip, halts_undone
from money.models import HaltMode, TradingHalt, Valuation
from orders import services as sending
from orders.models import Order
from orders.services import order_submit
from pipeline.models import Event
from positions import services as positions
from positions.models import Position, PositionStatus
from sessions.models import TradingSession
from tests.conftest import Bells
from tests.factories import (
    events,
    finish,
    make_account,
    make_config,
    make_limits,
    make_open_position,
    make_order,
    make_position,
    make_quote,
    make_session,
    make_user,
)
from tests.race import elsewhere, happens_before

pytestmark = pytest.mark.django_db
# For what other connections are to see, and for bells, which ring after a commit.
committed = pytest.mark.django_db(transaction=True)

S = OrderStatus
HALT, REDUCE_ONLY, FLATTEN = HaltMode.HALT, HaltMode.REDUCE_ONLY, HaltMode.FLATTEN
ENTRY_STATUSES = (S.REQUESTED, S.READY, S.SUBMITTING, S.UNKNOWN, S.OPENED, S.CLOSED)


@pytest.fixture(autouse=True)
def _bells(bells: Bells) -> None:
    """Every test rings into an empty broker."""


def entries_of(account: Account) -> dict[str, Order]:
    """One entry in every status, each of a session of its own."""
    return {
        status: make_order(make_position(make_session(account, make_config(account.owner))), status=status)
        for status in ENTRY_STATUSES
    }


def standing(orders: dict[str, Order]) -> dict[str, tuple[str, bool]]:
    rows = {order.pk: order for order in Order.objects.all()}
    return {was: (rows[order.pk].status, rows[order.pk].is_cancel_wanted) for was, order in orders.items()}


def test_a_halt_cancels_what_was_not_sent_and_leaves_what_is_at_the_venue() -> None:
    orders = entries_of(make_account())

    halt_trip(HALT, "news", account_id=orders[S.READY].account_id, actor="alice")

    assert standing(orders) == {
        S.REQUESTED: (S.REQUESTED, False),  # its valuing denies it, and says why
        S.READY: (S.CANCELED, False),
        S.SUBMITTING: (S.SUBMITTING, True),  # refused unseen it would be sent again
        S.UNKNOWN: (S.UNKNOWN, False),
        S.OPENED: (S.OPENED, False),
        S.CLOSED: (S.CLOSED, False),
    }
    assert list(Order.objects.filter(reason=Denial.HALTED).values_list("status", flat=True)) == [S.CANCELED]


@pytest.mark.parametrize("mode", [REDUCE_ONLY, FLATTEN])
def test_a_stronger_halt_cancels_entries_at_the_venue_too(mode: HaltMode) -> None:
    orders = entries_of(make_account())

    halt = halt_trip(mode, "news", account_id=orders[S.READY].account_id)
    halt_carry_out(halt.pk)

    assert standing(orders) == {
        S.REQUESTED: (S.REQUESTED, False),
        S.READY: (S.CANCELED, False),
        S.SUBMITTING: (S.SUBMITTING, True),
        S.UNKNOWN: (S.UNKNOWN, True),
        S.OPENED: (S.OPENED, True),
        S.CLOSED: (S.CLOSED, False),
    }


@pytest.mark.parametrize("mode", list(HaltMode))
def test_no_halt_touches_an_exit(mode: HaltMode) -> None:
    position = make_open_position(make_session())
    exits = [make_order(position, "EXIT", status=S.READY)]

    halt = halt_trip(mode, "news")
    halt_carry_out(halt.pk)

    assert [(order.status, order.is_cancel_wanted) for order in Order.objects.filter(is_exit=True)] == [
        (S.READY, False)
    ]
    assert len(exits) == 1


def test_flatten_leaves_positions_at_market_and_says_that_a_halt_did() -> None:
    position = make_open_position(make_session())
    make_quote(position.market)

    halt = halt_trip(FLATTEN, "news", session_id=position.session_id)
    halt_carry_out(halt.pk)
    positions.sessions_track([position.session_id])

    order = Order.objects.get(is_exit=True)
    assert (order.status, order.order_type, order.reason, order.quantity) == (
        S.READY,
        "MARKET",
        "HALT",
        position.quantity,
    )
    finish(order)
    positions.sessions_track([position.session_id])
    position.refresh_from_db()
    assert (position.status, position.exit_reason) == (PositionStatus.CLOSED, "HALT")
    assert halts_undone(timezone.now()) == []


def test_flatten_withdraws_an_entry_that_has_filled_nothing() -> None:
    order = make_order(make_position(make_session()), status=S.OPENED)

    halt = halt_trip(FLATTEN, "news")
    halt_carry_out(halt.pk)
    finish(order, S.CANCELED)
    positions.sessions_track(list(TradingSession.objects.values_list("pk", flat=True)))

    assert Position.objects.get().status == PositionStatus.ABANDONED


def test_a_position_that_turns_up_later_is_left_as_long_as_the_halt_stands() -> None:
    halt = halt_trip(FLATTEN, "news")
    position = make_open_position(make_session())

    assert halts_undone(timezone.now()) == [halt.pk]
    halt_carry_out(halt.pk)
    assert halts_undone(timezone.now()) == []
    position.refresh_from_db()
    assert position.is_exit_wanted


@committed
def test_a_trip_rings_once_and_a_lost_bell_is_rung_again(bells: Bells) -> None:
    order = make_order(make_position(make_session()), status=S.OPENED)

    halt = halt_trip(REDUCE_ONLY, "news")
    assert bells.rung("money.carry_out") == [{"halt_ids": [halt.pk]}]
    bells.clear()
    tasks.guard()
    assert bells.rung("money.carry_out") == [{"halt_ids": [halt.pk]}]
    bells.clear()
    tasks.carry_out([halt.pk])
    tasks.guard()

    order.refresh_from_db()
    assert order.is_cancel_wanted
    assert bells.rung("money.carry_out") == []


def test_carrying_out_twice_changes_nothing_more() -> None:
    make_open_position(make_session())
    halt = halt_trip(FLATTEN, "news")

    halt_carry_out(halt.pk)
    halt_carry_out(halt.pk)

    assert len(events("command", command="exit")) == 1


def test_a_halt_that_was_lifted_is_not_carried_out_any_more() -> None:
    position = make_open_position(make_session())
    halt = halt_trip(FLATTEN, "news")
    halt_lift(halt.pk, "false alarm", actor="alice")

    halt_carry_out(halt.pk)

    position.refresh_from_db()
    assert not position.is_exit_wanted
    assert halts_undone(timezone.now()) == []


def test_a_session_that_cannot_be_left_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make_open_position(make_session()), make_open_position(make_session(make_account(name="b")))
    halt = halt_trip(FLATTEN, "news")
    leave = positions.session_exit

    def failing(session_id: int, **words: Any) -> bool:
        if session_id == first.session_id:
            raise RuntimeError("broken")
        return leave(session_id, **words)

    monkeypatch.setattr(halts, "session_exit", failing)
    halt_carry_out(halt.pk)

    assert list(Position.objects.filter(is_exit_wanted=True)) == [second]
    assert halts_undone(timezone.now()) == [halt.pk]


def test_each_scope_reaches_its_own_sessions_and_no_others() -> None:
    alice, bob = make_user("alice"), make_user("bob")
    main, other, bobs = make_account(alice), make_account(alice, name="other"), make_account(bob, name="bobs")
    sessions = {
        "mine": make_session(main), "beside": make_session(main, make_config(alice)), "other": make_session(other),
        "bobs": make_session(bobs),
    }  # fmt: skip
    entries = {name: make_order(make_position(session), status=S.READY).pk for name, session in sessions.items()}

    def halted() -> set[str]:
        return {name for name, session in sessions.items() if halt_in_force(session)}

    def withdrawn() -> set[str]:
        gone = set(Order.objects.filter(status=S.CANCELED).values_list("pk", flat=True))
        return {name for name, pk in entries.items() if pk in gone}

    scopes: tuple[tuple[dict[str, Any], set[str]], ...] = (
        ({"session_id": sessions["mine"].pk}, {"mine"}),
        ({"account_id": main.pk}, {"mine", "beside"}),
        ({"owner_id": alice.pk}, {"mine", "beside", "other"}),
        ({}, {"mine", "beside", "other", "bobs"}),
    )
    for scope, reached in scopes:
        halt = halt_trip(HALT, "news", **scope)
        assert (halted(), withdrawn()) == (reached, reached), scope
        halt_lift(halt.pk, "enough", actor="alice")
        assert halted() == set()


def test_of_several_halts_the_strongest_counts(django_assert_num_queries: Any) -> None:
    session = make_session()
    halt_trip(HALT, "one", session_id=session.pk)
    strongest = halt_trip(FLATTEN, "two")
    halt_trip(REDUCE_ONLY, "three", account_id=session.account_id)

    fresh = TradingSession.objects.only("pk").get(pk=session.pk)
    with django_assert_num_queries(1):
        assert halt_in_force(fresh) == strongest
    halt_lift(strongest.pk, "enough", actor="root")
    found = halt_in_force(session)
    assert found is not None
    assert found.cause == "three"


def test_an_entry_requested_under_a_halt_is_denied_and_not_kept_for_later() -> None:
    session = make_session()
    make_limits(session.account)
    make_quote(session.config.feed.market)
    halt = halt_trip(HALT, "news", account_id=session.account_id)
    order = make_order(make_position(session))

    services.orders_value([order.pk])
    halt_lift(halt.pk, "over", actor="alice")
    services.orders_value([order.pk])

    order.refresh_from_db()
    assert (order.status, order.reason) == (S.DENIED, Denial.HALTED)
    assert order.detail == "Trading is halted here; somebody has to lift the halt first."
    assert Valuation.objects.get().verdict == Denial.HALTED


def test_a_second_press_is_the_same_halt_and_another_mode_is_another() -> None:
    account = make_account()

    first = halt_trip(HALT, "news", account_id=account.pk, actor="alice")
    second = halt_trip(HALT, "news, again", account_id=account.pk, actor="alice")
    third = halt_trip(FLATTEN, "worse", account_id=account.pk, actor="alice")

    assert (second, second.cause, second.tripped_by) == (first, "news", "alice")
    assert third != first
    assert len(events("alerts", alert="HALT_TRIPPED")) == 2


def test_what_the_platform_decides_stands_though_the_trader_has_decided_it_too() -> None:
    session = make_session()
    mine = halt_trip(HALT, "news", account_id=session.account_id, actor="alice")

    theirs = halt_trip(HALT, "an audit", account_id=session.account_id, actor="root")
    halt_lift(mine.pk, "over", actor="alice")

    assert halt_in_force(session) == theirs
    assert not halt_is_liftable(theirs, "alice", is_superuser=False)


def test_tripping_and_lifting_are_told_with_cause_and_who() -> None:
    session = make_session()
    halt = halt_trip(HALT, "fat finger", session_id=session.pk, actor="alice")
    assert halt_lift(halt.pk, "  all is well ", actor="bob") is True

    facts = {"scope": "SESSION", "mode": "HALT", "cause": "fat finger", "rule": ""}
    assert events("alerts") == [
        {"alert": "HALT_TRIPPED", **facts},
        {"alert": "HALT_LIFTED", **facts, "note": "all is well"},
    ]
    halt.refresh_from_db()
    assert (halt.tripped_by, halt.lifted_by, halt.lift_note) == ("alice", "bob", "all is well")


def test_a_halt_of_the_platform_is_told_to_every_trader() -> None:
    alice, bob = make_user("alice"), make_user("bob")
    make_account(alice), make_account(alice, name="second"), make_account(bob)

    halt_trip(HALT, "maintenance")

    assert list(Event.objects.order_by("owner_id").values_list("owner_id", flat=True)) == sorted([alice.pk, bob.pk])


def test_lifting_twice_is_lifting_once() -> None:
    halt = halt_trip(HALT, "news")

    assert halt_lift(halt.pk, "over", actor="alice") is True
    assert halt_lift(halt.pk, "over, really", actor="bob") is False

    halt.refresh_from_db()
    assert (halt.lifted_by, halt.lift_note) == ("alice", "over")


@pytest.mark.parametrize("note", ["", "  ", "x" * 201])
def test_a_halt_is_not_lifted_without_a_word(note: str) -> None:
    halt = halt_trip(HALT, "news")

    with pytest.raises(ValidationError, match="wanted why it may be lifted, in 1 to 200 letters"):
        halt_lift(halt.pk, note, actor="alice")

    assert TradingHalt.objects.filter(lifted_at=None).exists()


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ({"mode": "PANIC"}, "mode"), ({"cause": " "}, "cause"), ({"account_id": 99}, "account"),
        ({"session_id": 1, "owner_id": 1}, "scope"),
    ],
)  # fmt: skip
def test_a_trip_that_makes_no_sense_names_what_is_wrong(words: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        halt_trip(**{"mode": "HALT", "cause": "news", **words})

    assert list(caught.value.message_dict) == [field]


@committed
def test_an_entry_refused_unseen_while_a_halt_trips_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The venue says that it did not look at the order; meanwhile somebody pressed the button."""
    order = make_order(make_position(make_session()), status=S.READY)

    def refuse(*_: Any) -> None:
        elsewhere(lambda: halt_trip(HALT, "news"))
        raise ExchangeUnavailable("too many requests")

    monkeypatch.setattr(sending, "gateway_for", refuse)

    assert order_submit(order.pk) == S.CANCELED


@committed
def test_a_trip_between_reading_and_deciding_is_seen_by_the_valuing(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session()
    make_limits(session.account)
    make_quote(session.config.feed.market)
    order = make_order(make_position(session))

    happens_before(monkeypatch, services, "_read_what_is_old", lambda: halt_trip(HALT, "news", session_id=session.pk))
    services.orders_value([order.pk])

    order.refresh_from_db()
    assert (order.status, order.reason) == (S.DENIED, Denial.HALTED)

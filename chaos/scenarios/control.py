"""The trader clicks twice, changes their mind, or stops while an order is in the air; beats and sweeps come in pairs."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from django.db import models
from django.utils import timezone

from chaos.breach import Breach
from chaos.scenarios import scenario
from chaos.scenarios.acts import enter, leave, let_go_by, long_ago, ring_plain, say, tell
from chaos.stage import Stage
from chaos.world import ORDERS_PATH, World
from domain.candles import Timeframe
from domain.orders import OrderStatus
from domain.strategy import SignalKind
from exchanges.models import Account, RiskProfile
from marketdata.models import Candle
from orders.models import Fill, Order
from pipeline.models import Event
from pipeline.topics import Topic
from positions.models import Intent, Position, PositionStatus
from sessions.models import SessionStatus, SessionTick, TradingSession
from sessions.services import UnableToCommand, session_recover, session_start, session_stop, session_suspend
from strategies.models import Signal

S = OrderStatus


def _status(session: TradingSession) -> str:
    return str(TradingSession.objects.values_list("status", flat=True).get(pk=session.pk))


@scenario("double-start", rows=(52,), needs_stage=False)
def double_start(stage: World) -> None:
    """Twenty starts in one moment, of a session and of its twin: one run, told once."""
    account, config = stage.account(), stage.config()
    session, twin = stage.session(account, config), stage.session(account, config)
    outcomes = stage.together(
        *[lambda: session_start(session.pk)] * 10, *[lambda: session_start(twin.pk)] * 10,
    )  # fmt: skip
    stage.count("control", 20)
    started = sum(outcome is None for outcome in outcomes)
    strange = [one for one in outcomes if one is not None and not isinstance(one, UnableToCommand)]
    stage.expect((started, strange) == (1, []), f"wanted one start and refusals, were {started} and {strange}")
    runs = sum(TradingSession.objects.filter(pk__in=(session.pk, twin.pk)).values_list("run", flat=True))
    told = Event.objects.filter(topic=Topic.COMMAND, key__in=(session.pk, twin.pk), data__command="start").count()
    stage.expect((runs, told) == (1, 1), f"wanted one run told once, were {runs} told {told} times")


@scenario("stop-in-flight", rows=(53,), needs_stage=False)
def stop_in_flight(stage: World) -> None:
    """Stop while an entry is on its way: STOPPING until its fate is known, then sold, then STOPPED; nothing after that."""
    order = stage.ready_order()
    session = stage.position_of(order).session
    # Its answer is on its way for long; the request itself must not be, or the venue's window for it could end first.
    stage.order_fault(order, "delay", "after", seconds=3 * stage.pace)
    stage.submit(order)
    stage.wait(lambda: stage.orders_there(order.account), "the venue to accept it")
    leave(stage, session)
    stage.expect_order(order, S.CLOSED, accepted=1, sent=1)
    position = stage.position_of(order)
    stage.expect(position.status == PositionStatus.CLOSED, f"wanted its position CLOSED, was {position.status}")


@scenario("stop-while-unknown", rows=(53,), needs_stage=False)
def stop_while_unknown(stage: World) -> None:
    """Stop while nobody knows whether an entry is there: STOPPING until it is known."""
    order = stage.ready_order()
    session = stage.position_of(order).session
    stage.order_fault(order, "drop", "after")
    stage.fault(method="GET", path=f"{ORDERS_PATH}*", apiKey=order.account.name, kind="drop", count=None)
    stage.submit(order)
    stage.wait_order(order, S.UNKNOWN)
    session_stop(session.pk)
    until = timezone.now() + timedelta(seconds=10 * stage.pace)
    while timezone.now() < until:
        stage.expect(_status(session) == SessionStatus.STOPPING, f"wanted STOPPING, was {_status(session)}")
        stage.pause()
    stage.heal()
    leave(stage, session)
    stage.expect_order(order, S.CLOSED, accepted=1, sent=1)


@scenario("stop-start-stop", rows=(54,), needs_stage=False)
def stop_start_stop(stage: World) -> None:
    """Stop and start in quick succession, and starts while it still stops: one after the other, and a new run owes nothing
    to the signals of the old."""
    session = stage.session(stage.account())
    session_start(session.pk)
    enter(stage, session)
    say(stage, session.config, SignalKind.EXIT_LONG)
    session_stop(session.pk)
    refused = stage.together(*[lambda: session_start(session.pk)] * 5)
    stage.count("control", 7)
    if _status(session) == SessionStatus.STOPPING:
        stage.expect(
            all(isinstance(one, UnableToCommand) for one in refused), f"wanted every start refused, were {refused}"
        )
    leave(stage, session)
    # The old run's last word is an entry; the new run begins after it.
    signal = say(stage, session.config)
    TradingSession.objects.filter(pk=session.pk).update(last_signal=None)
    # Past its close, and before it is old news.
    stage.advance(200)
    stage.read_prices()
    session_start(session.pk)
    stage.ring("positions.fan_out", signal_ids=[signal.pk])
    stage.ring("positions.track", session_ids=[session.pk])
    until = timezone.now() + timedelta(seconds=1)
    stage.wait(lambda: timezone.now() > until, "the old signal to be seen")
    stage.expect(
        session.positions.filter(entry_signal=signal).count() == 0,
        "wanted no entry on a signal of the run before, was one",
    )


@scenario("old-signal", rows=(50, 54), needs_stage=False)
def old_signal(stage: World) -> None:
    """A signal told over and over, even after its position has come and gone, enters the market once."""
    session = stage.session(status=SessionStatus.ACTIVE)
    enter(stage, session)
    signal_id = Signal.objects.filter(config=session.config, kind=SignalKind.ENTER_LONG).latest("pk").pk
    Position.objects.filter(session=session).update(is_exit_wanted=True)
    stage.ring("positions.track", session_ids=[session.pk])
    stage.wait(session.positions.filter(status=PositionStatus.CLOSED).exists, "the position to close")
    for _ in range(5):
        stage.ring("positions.fan_out", signal_ids=[signal_id])
        stage.ring("positions.track", session_ids=[session.pk])
        stage.count("bell", 2)
    until = timezone.now() + timedelta(seconds=0.6)
    stage.wait(lambda: timezone.now() > until, "the bells to be heard")
    entered = session.positions.count()
    stage.expect(entered == 1, f"wanted one position of one signal, were {entered}")


@scenario("recover-knows", rows=(36, 53), needs_stage=False)
def recover_knows(stage: World) -> None:
    """Recover while an order's fate is unknown and the venue does not say: the session waits, and trades once it knows."""
    order = stage.ready_order()
    session = stage.position_of(order).session
    stage.order_fault(order, "drop", "after")
    stage.fault(method="GET", path=f"{ORDERS_PATH}*", apiKey=order.account.name, kind="http", status=502, count=None)
    stage.submit(order)
    stage.wait_order(order, S.UNKNOWN)
    session_suspend(session.pk)
    session_recover(session.pk)
    until = timezone.now() + timedelta(seconds=12 * stage.pace)
    while timezone.now() < until:
        stage.expect(_status(session) == SessionStatus.SUSPENDED, f"wanted SUSPENDED, was {_status(session)}")
        stage.pause()
    stage.heal()
    stage.wait(lambda: _status(session) == SessionStatus.ACTIVE, f"{session} to recover")
    stage.expect_order(order, S.CLOSED, accepted=1, sent=1)


@scenario("bells-doubled", rows=(16,), needs_stage=False)
def bells_doubled(stage: World) -> None:
    """Every bell of an order's life five times, while it happens and after it has happened."""
    account = stage.account("1000000")
    orders = [stage.ready_order(account) for _ in range(4)]
    for order in orders:
        stage.order_fault(order, "delay", "after", seconds=1.5 * stage.pace)
    for _ in range(5):
        stage.submit(*orders)
    stage.count("bell", 16)
    for order in orders:
        stage.wait_order(order, S.CLOSED)
    for _ in range(5):
        stage.submit(*orders)
        stage.ring("orders.look", order_ids=[order.pk for order in orders])
        stage.ring("positions.follow_orders", order_ids=[order.pk for order in orders])
    stage.count("bell", 60)
    until = timezone.now() + timedelta(seconds=0.5)
    stage.wait(lambda: timezone.now() > until, "the bells to be heard")
    for order in orders:
        stage.expect_order(order, S.CLOSED, accepted=1, sent=1)


@scenario("exit-in-flight", rows=(16, 53), needs_stage=False)
def exit_in_flight(stage: World) -> None:
    """An exit on its way, and everybody who could want another looks: nothing is sold twice."""
    session = stage.session(status=SessionStatus.ACTIVE)
    position = enter(stage, session)
    # The venue takes its time for whatever this account sells.
    stage.fault(method="POST", path=ORDERS_PATH, apiKey=session.account.name, kind="delay", when="after",
                seconds=3 * stage.pace, count=None)  # fmt: skip
    Position.objects.filter(pk=position.pk).update(is_exit_wanted=True)
    closed = Position.objects.filter(pk=position.pk, status=PositionStatus.CLOSED)

    def is_closed() -> bool:
        for task in ("positions.track", "positions.tick"):
            stage.ring(task, session_ids=[session.pk])
        stage.count("bell", 2)
        return closed.exists()

    stage.wait(is_closed, "the position to close")
    exits = Order.objects.filter(intent_id__in=Intent.objects.filter(position=position), is_exit=True)
    stage.expect(exits.count() == 1, f"wanted one exit, were {exits.count()}")


@scenario("one-limit", rows=(16,), needs_stage=False)
def one_limit(stage: World) -> None:
    """Eight sessions of one account want its last free place in the same moment: one gets it."""
    account = stage.account("1000000")
    RiskProfile.objects.filter(account=account).update(max_open_positions=1)
    sessions = [stage.session(account, status=SessionStatus.ACTIVE) for _ in range(8)]
    orders = [
        stage.ready_order(session=session, status=S.REQUESTED, quantity=None, valued_at=None) for session in sessions
    ]
    for order in orders:
        stage.ring("money.value", order_ids=[order.pk])
    waiting = Order.objects.filter(pk__in=[order.pk for order in orders], status=S.REQUESTED)
    stage.wait(lambda: not waiting.exists(), "every order to be valued")
    denied = Order.objects.filter(pk__in=[order.pk for order in orders], status=S.DENIED).count()
    stage.expect(denied == 7, f"wanted 7 of 8 denied, were {denied}")


@scenario("two-schedulers", rows=(55,), needs_stage=False)
def two_schedulers(stage: World) -> None:
    """A tick is due, and several schedulers come for it in the same moment: one tick, and one for all that were missed."""
    session = stage.session(status=SessionStatus.ACTIVE)
    position = enter(stage, session)
    before = Position.objects.values_list("valuations", flat=True).get(pk=position.pk)
    # Due for an hour: twelve periods were missed.
    SessionTick.objects.create(
        session=session, due_at=timezone.now() - timedelta(hours=1), every=timedelta(seconds=300)
    )
    for _ in range(8):
        ring_plain("sessions.tick")
    stage.count("control", 7)
    valuations = Position.objects.filter(pk=position.pk)
    stage.wait(lambda: valuations.get().valuations > before, "the tick")
    until = timezone.now() + timedelta(seconds=0.5)
    stage.wait(lambda: timezone.now() > until, "what else may tick")
    ticked = valuations.get().valuations - before
    stage.expect(ticked == 1, f"wanted one tick, were {ticked}")


@scenario("two-beats", rows=(55,))
def two_beats(stage: Stage) -> None:
    """A second beat runs for a while, then both die and one comes back: the same as with one."""
    stage.start("beat-2")
    sessions = [stage.session(status=SessionStatus.ACTIVE) for _ in range(4)]
    orders = [stage.ready_order() for _ in range(4)]  # found by the sweeps of either, for nobody rings
    for session in sessions:
        say(stage, session.config)
    stage.count("control")
    for order in orders:
        stage.wait_order(order, S.CLOSED)
    for session in sessions:
        stage.wait(session.positions.filter(status=PositionStatus.OPEN).exists, f"{session} to enter")
    stage.kill("beat-2")
    stage.restart("beat")
    for order in orders:
        stage.expect_order(order, S.CLOSED, accepted=1, sent=1)


@scenario("too-old-to-send", rows=(57,), needs_stage=False)
def too_old_to_send(stage: World) -> None:
    """After an outage of more than a minute an entry that nobody could send is let go of; an exit never is."""
    entry = stage.ready_order()
    long_ago(entry, valued_at=timedelta(seconds=61))
    holder = stage.session(status=SessionStatus.ACTIVE)
    position = enter(stage, holder)
    intent = Intent.objects.create(position=position, purpose=Intent.Purpose.EXIT, reason="MARKET_EXIT")
    Position.objects.filter(pk=position.pk).update(exit_reason="MARKET_EXIT")
    leaving = Order.objects.create(
        account=holder.account, market=position.market, intent_id=intent.pk, side="SELL", position_side="LONG",
        is_exit=True, status=S.READY, reason="MARKET_EXIT", quantity=position.quantity,
        valued_at=timezone.now() - timedelta(hours=1),
    )  # fmt: skip
    stage.wait_order(entry, S.CANCELED, S.CLOSED)
    stage.expect_order(entry, S.CANCELED, accepted=0, sent=0)
    stage.wait_order(leaving, S.CLOSED)
    stage.expect_order(leaving, S.CLOSED, accepted=1, sent=1)


@scenario("second-writer", rows=(52, 54), needs_stage=False)
def second_writer(stage: World) -> None:
    """Whoever writes to the database by whatever way: it takes no second live attempt, position, run, fill or signal."""
    session = stage.session(status=SessionStatus.SUSPENDED)
    signal = say(stage, session.config)
    order = stage.ready_order(session=session, status=S.OPENED, exchange_order_id="none")
    position = stage.position_of(order)
    fill = {"order": order, "account": order.account, "market": order.market, "trade_id": "1", "side": "BUY",
            "quantity": Decimal(1), "price": Decimal(1), "filled_at": timezone.now()}  # fmt: skip
    order.fills.create(**{name: value for name, value in fill.items() if name != "order"})
    minute = {"feed": stage.feed("ETH/USDT", Timeframe.H1), "open_at": timezone.now(),
              **dict.fromkeys(("open", "high", "low", "close", "volume"), Decimal(1))}  # fmt: skip
    candle = Candle.objects.create(**minute)
    attempts = {
        "a second live attempt of an intent": lambda: _copy(order, client_order_id="r3-second"),
        "a client order id again": lambda: _copy(order, intent_id=signal_intent(position)),
        "a fill again": lambda: order.fills.create(**{name: value for name, value in fill.items() if name != "order"}),
        "a second live position of a session": lambda: _copy(position),
        "a second intent of one purpose": lambda: Intent.objects.create(position=position, purpose="ENTRY"),
        "a second run of a configuration on an account": lambda: _copy(session, name="twin"),
        "a second signal of one candle": lambda: _copy(signal),
        "a second candle of one minute": lambda: Candle.objects.create(**minute),
    }
    failed = []
    for what, write in attempts.items():
        outcome = stage.together(write)[0]
        if type(outcome).__name__ != "IntegrityError":
            failed.append(f"{what} was {outcome!r}")
    intents = Intent.objects.filter(position__session=session)
    Fill.objects.filter(order__intent_id__in=intents.values("pk")).delete()
    Order.objects.filter(intent_id__in=intents.values("pk")).delete()
    Position.objects.filter(session=session).delete()
    TradingSession.objects.filter(account=session.account).delete()
    session.config.signals.all().delete()
    candle.feed.candles.all().delete()
    if failed:
        raise Breach(f"wanted the database to refuse it: {'; '.join(failed)}")


def signal_intent(position: Position) -> object:
    return Intent.objects.create(position=position, purpose="EXIT").pk


def _copy(original: models.Model, **changes: object) -> None:
    row = type(original)._default_manager.get(pk=original.pk)
    row.pk = None
    row._state.adding = True
    for name, value in changes.items():
        setattr(row, name, value)
    row.save()


@scenario("account-paused", rows=(46,), needs_stage=False)
def account_paused(stage: World) -> None:
    """The venue refuses an account's key: paused once, told once, its sessions halted, and the venue is left alone."""
    account, config = stage.account("1000000"), stage.config()
    session = stage.session(account, config, SessionStatus.ACTIVE)
    orders = [stage.ready_order(account) for _ in range(3)]
    key = account.name
    stage.sim("accounts", apiKey=key, secret=f"secret-{key}", passphrase=f"pass-{key}", isRevoked=True)
    stage.count("exchange")
    stage.submit(*orders)
    for order in orders:
        stage.wait_order(order, S.REJECTED)
    stage.wait(lambda: _status(session) == SessionStatus.HALTED, f"{session} to be halted")
    told = Event.objects.filter(topic=Topic.ALERTS, key=account.pk, data__alert="ACCOUNT_PAUSED").count()
    stage.expect(told == 1, f"wanted the pause told once, was {told} times")
    asked = len([line for line in stage.oracle(requests=20_000)["requests"] if line.get("apiKey") == key])
    until = timezone.now() + timedelta(seconds=1)
    stage.wait(lambda: timezone.now() > until, "a while without requests")
    again = len([line for line in stage.oracle(requests=20_000)["requests"] if line.get("apiKey") == key]) - asked
    stage.expect(again == 0, f"wanted no request with a refused key, were {again}")
    stage.sim("accounts", apiKey=key, secret=f"secret-{key}", passphrase=f"pass-{key}", isRevoked=False)
    Account.objects.filter(pk=account.pk).update(status=Account.Status.ACTIVE, status_reason="")
    session_recover(session.pk)
    stage.wait(lambda: _status(session) == SessionStatus.ACTIVE, f"{session} to recover")


@scenario("suspended-keeps-exits", rows=(53,), needs_stage=False)
def suspended_keeps_exits(stage: World) -> None:
    """A suspended session enters no more, and still leaves."""
    session = stage.session(status=SessionStatus.ACTIVE, stop_loss_percent=Decimal(50))
    idle = stage.session(status=SessionStatus.ACTIVE)
    enter(stage, session)
    for one in (session, idle):
        session_suspend(one.pk)
    tell(stage, idle.config)
    tell(stage, session.config, SignalKind.EXIT_LONG)
    stage.wait(session.positions.filter(status=PositionStatus.CLOSED).exists, "the suspended session to leave")
    # Whoever looks at it, and not only those whom the signal wakes.
    stage.ring("positions.track", session_ids=[idle.pk])
    let_go_by(stage, 0.5)
    stage.expect(idle.positions.count() == 0, "wanted no entry of a suspended session, was one")

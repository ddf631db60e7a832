"""What must be true whatever happened, judged by the database and the venue's own books (the oracle).

I1 no intent has two accepted orders; I2 every order of ours at the venue has a row; I3 fills are the venue's, each once;
I4 so are balances, to the last digit; I5 nothing stays unknown in silence; I6 the journal tells each order's life, once;
I7 nothing is accepted for a session that is stopped; I9 no filled position is without the stop that its exits name, tracked
or resting. I8, that ringing every bell again changes nothing, needs the platform's processes: ``Stage.check_bells`` does it
with ``snapshot``.

Each looks at everything there is and answers with what it found wrong, in words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone

from domain.market import ZERO, PositionSide, Side, round_quantity
from domain.orders import LIVE_STATUSES, ORDER_TRANSITIONS, OrderStatus
from exchanges.models import Market
from money.models import TradingHalt
from orders.models import CLIENT_ORDER_ID_PREFIX, Fill, Order
from orders.services import UNKNOWN_ALERT_AFTER
from pipeline.models import Event
from pipeline.topics import Topic
from positions.models import LIVE_POSITIONS, Discrepancy, DiscrepancyKind, Intent, Position, PositionStatus
from sessions.models import TRACKED_STATUSES, TradingSession
from strategies.models import Signal

S = OrderStatus

Oracle = Mapping[str, Any]

# How long an order may be in the air, and how long a cancellation may be wanted, without anybody having been told.
LONGEST_IN_SILENCE = UNKNOWN_ALERT_AFTER + timedelta(seconds=30)
ORDER_TOPICS = (Topic.RAW_ORDERS, Topic.ORDERS, Topic.ORDER_UPDATES)
# Steps that are written without a journal row of their own: the claim, and its return when the venue did not look.
UNTOLD = frozenset({S.SUBMITTING})
# The clocks of one machine; the venue's time of arrival is rounded to the millisecond.
CLOCK_MARGIN = timedelta(milliseconds=2)


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach: of which invariant, in words."""

    invariant: str
    words: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.words}"


def check(oracle: Oracle, now: datetime | None = None) -> list[Finding]:
    """I1 to I7 and I9; what they found."""
    found = {
        "I1": one_order_per_intent(oracle),
        "I2": every_order_has_a_row(oracle),
        "I3": fills_are_the_venues(oracle),
        "I4": balances_are_the_venues(oracle),
        "I5": nothing_unknown_in_silence(now or timezone.now()),
        "I6": journal_tells_each_life_once(),
        "I7": nothing_accepted_when_stopped(oracle),
        "I9": nothing_held_without_its_stop(),
    }
    return [Finding(name, words) for name, breaches in found.items() for words in breaches]


def one_order_per_intent(oracle: Oracle) -> list[str]:
    """I1: the venue accepted no client order id twice, and no second order of an intent whose first was not cancelled, but
    for an exit of what came in after the first had ended; and the exits of a position sold no more than its entries
    bought."""
    there, stops = _ours(oracle), _our_stops(oracle)
    # A stop that was triggered is an order of the same client order id, too.
    breaches = [
        f"{oid} was accepted {count} times"
        for book in (there, stops)
        for oid, count in Counter(order["clientOid"] for order in book).items()
        if count > 1
    ]
    kept = [order["clientOid"] for order in there if order["status"] != "canceled"]
    kept += [stop["clientOid"] for stop in stops if stop["status"] == "NEW"]
    by_intent: dict[Any, list[Order]] = defaultdict(list)
    for order in Order.objects.filter(client_order_id__in=kept).order_by("pk"):
        by_intent[order.intent_id].append(order)
    breaches += [
        f"intent {intent} has {len(orders)} accepted orders: {', '.join(order.client_order_id for order in orders)}"
        for intent, orders in by_intent.items()
        if len(orders) > 1 and not _came_one_by_one(orders)
    ]
    return breaches + _sold_too_much(there)


def _came_one_by_one(orders: Sequence[Order]) -> bool:
    """Whether these are exits, each asked for after the one before had ended: a fill that comes late is sold by another
    order of the same wish. That they sold no more than there was is looked at by itself."""
    return all(order.is_exit for order in orders) and all(
        earlier.closed_at is not None and earlier.closed_at <= later.requested_at for earlier, later in pairwise(orders)
    )


def _sold_too_much(there: Sequence[Mapping[str, Any]]) -> list[str]:
    position_of = dict(Intent.objects.values_list("pk", "position_id"))
    intents = dict(Order.objects.values_list("client_order_id", "intent_id"))
    filled: dict[Any, dict[bool, Decimal]] = defaultdict(lambda: {False: ZERO, True: ZERO})
    is_exit = dict(Order.objects.values_list("client_order_id", "is_exit"))
    for order in there:
        intent = intents.get(order["clientOid"])
        position = position_of.get(intent) if intent is not None else None
        if position is not None:
            filled[position][is_exit[order["clientOid"]]] += Decimal(order["dealSize"])
    return [
        f"position {pk}: its entries filled {sums[False]} and its exits {sums[True]}"
        for pk, sums in filled.items()
        if sums[True] > sums[False]
    ]


def every_order_has_a_row(oracle: Oracle) -> list[str]:
    """I2: every order there with our prefix has a row with its id, and every row that says it was there has an order. A stop
    is known by the id under which it waited until it becomes an order."""
    there = {order["clientOid"]: order["id"] for order in [*_our_stops(oracle), *_ours(oracle)]}
    rows = dict(_own_orders().values_list("client_order_id", "exchange_order_id"))
    breaches = [f"{oid} is at the venue and has no row" for oid in there if oid not in rows]
    breaches += [
        f"{oid}: wanted the venue's id {there[oid]}, was {rows[oid] or 'none'}"
        for oid in there
        if oid in rows and rows[oid] != there[oid] and not _is_on_its_way(oid)
    ]
    claimed = _own_orders().exclude(exchange_order_id="").values_list("client_order_id", flat=True)
    return breaches + [f"{oid} has a venue's id and is not there" for oid in claimed if oid not in there]


def _is_on_its_way(client_order_id: str) -> bool:
    return Order.objects.filter(client_order_id=client_order_id, status__in=(S.SUBMITTING, S.UNKNOWN)).exists()


def fills_are_the_venues(oracle: Oracle) -> list[str]:
    """I3: by account, symbol, trade id and side (a trade with oneself has one of each) our fills are the venue's, exactly,
    for every order that is finished; and the sums on the orders are the sums of their fills."""
    ours = {
        (fill.account.name, fill.market.symbol.replace("/", "-"), fill.trade_id, fill.side.lower()): (
            fill.order.client_order_id, fill.quantity, fill.price, fill.fee,
        )
        for fill in Fill.objects.filter(order__in=_own_orders()).select_related("account", "market", "order")
    }  # fmt: skip
    theirs = {
        (fill["apiKey"], fill["symbol"], str(fill["tradeId"]), str(fill["side"])): (
            fill["clientOid"], *(Decimal(fill[name]) for name in ("size", "price", "fee")),
        )
        for fill in oracle["fills"]
        if (fill["clientOid"] or "").startswith(CLIENT_ORDER_ID_PREFIX)
    }  # fmt: skip
    open_yet = set(Order.objects.filter(status__in=LIVE_STATUSES).values_list("client_order_id", flat=True))
    breaches = [
        f"fill {key} of {fill[0]} was not recorded"
        for key, fill in theirs.items()
        if key not in ours and fill[0] not in open_yet
    ]
    breaches += [f"fill {key} of {fill[0]} is not the venue's" for key, fill in ours.items() if key not in theirs]
    breaches += [
        f"fill {key}: wanted {theirs[key]}, was {fill}"
        for key, fill in ours.items()
        if key in theirs and fill != theirs[key]
    ]
    return breaches + _wrong_sums()


def _wrong_sums() -> list[str]:
    sums: dict[int, tuple[Decimal, Decimal]] = defaultdict(lambda: (ZERO, ZERO))
    for order_id, quantity, price in Fill.objects.values_list("order_id", "quantity", "price"):
        filled, quote = sums[order_id]
        sums[order_id] = (filled + quantity, quote + quantity * price)
    return [
        f"{order}: wanted {sums[order.pk][0]} filled for {sums[order.pk][1]}, was {order.filled} for {order.filled_quote}"
        for order in Order.objects.filter(Q(filled__gt=0) | Q(pk__in=list(sums)))
        if (order.filled, order.filled_quote) != sums[order.pk]
    ]


def balances_are_the_venues(oracle: Oracle) -> list[str]:
    """I4: what came in, and what our recorded fills and fills of others changed, is what the venue holds; and where
    nothing is held any more, the positions' profits are the difference."""
    expected: dict[tuple[str, str], Decimal] = defaultdict(lambda: ZERO)
    for deposit in oracle["deposits"]:
        expected[deposit["apiKey"], deposit["currency"]] += Decimal(deposit["amount"])
    open_yet = set(Order.objects.filter(status__in=LIVE_STATUSES).values_list("account__name", flat=True))
    foreign: set[str] = set()
    for fill in oracle["fills"]:
        if not (fill["clientOid"] or "").startswith(CLIENT_ORDER_ID_PREFIX):
            base, quote = fill["symbol"].split("-")
            foreign.add(fill["apiKey"])
            _book(expected, fill["apiKey"], base, quote, Side(fill["side"].upper()), Decimal(fill["size"]),
                  Decimal(fill["price"]), Decimal(fill["fee"]), fill["feeCurrency"])  # fmt: skip
    profits = dict(expected)
    for own in Fill.objects.filter(order__in=_own_orders()).select_related("account", "market"):
        _book(expected, own.account.name, own.market.base, own.market.quote, Side(own.side), own.quantity, own.price,
              own.fee, own.fee_currency)  # fmt: skip
    found = {
        (key, currency): Decimal(balance["balance"])
        for key, balances in oracle["balances"].items()
        for currency, balance in balances.items()
    }
    breaches = [
        f"account {key}: wanted {expected.get((key, currency), ZERO)} {currency}, the venue holds {held}"
        for (key, currency), held in found.items()
        if key not in open_yet and held != expected.get((key, currency), ZERO)
    ]
    return breaches + _wrong_profits(profits, found, open_yet | foreign) + _held_by_nobody(open_yet)


def _held_by_nobody(excused: set[str]) -> list[str]:
    """What our orders bought is in a position, or left over as dust, or somebody was told of it."""
    held: dict[tuple[str, str], Decimal] = defaultdict(lambda: ZERO)
    fills = Fill.objects.filter(market__kind=Market.Kind.SPOT).exclude(order__intent_id__in=_unadopted())
    for fill in fills.select_related("account", "market"):
        held[fill.account.name, fill.market.base] += Side(fill.side).sign * fill.quantity
        if fill.fee_currency == fill.market.base:
            held[fill.account.name, fill.market.base] -= fill.fee
    positions = Position.objects.filter(side=PositionSide.LONG, market__kind=Market.Kind.SPOT)
    for position in positions.select_related("account", "market"):
        in_it = position.quantity if position.status in LIVE_POSITIONS else ZERO
        held[position.account.name, position.market.base] -= in_it + position.dust
    told = Event.objects.filter(topic=Topic.ALERTS, data__alert="ORDER_FOUND_AFTER_NOT_PLACED")
    found_late = Order.objects.filter(pk__in=list(told.values_list("ids__order_id", flat=True)))
    excused = excused | set(found_late.values_list("account__name", flat=True))
    return [
        f"account {key}: {left} {currency} of what our orders bought are in no position"
        for (key, currency), left in held.items()
        if left != 0 and key not in excused
    ]


def _unadopted() -> models.QuerySet[Order, Any]:
    """Intents of others: their orders carry one of their own until a trader takes them into a position."""
    known = Intent.objects.values("pk")
    return Order.objects.filter(is_foreign=True).exclude(intent_id__in=known).values("intent_id")


def _book(
    expected: dict[tuple[str, str], Decimal],
    key: str,
    base: str,
    quote: str,
    side: Side,
    quantity: Decimal,
    price: Decimal,
    fee: Decimal,
    fee_currency: str,
) -> None:
    expected[key, base] += side.sign * quantity
    expected[key, quote] -= side.sign * quantity * price
    expected[key, fee_currency] -= fee


def _wrong_profits(
    deposits: Mapping[tuple[str, str], Decimal], found: Mapping[tuple[str, str], Decimal], excused: set[str]
) -> list[str]:
    profits: dict[tuple[str, str], Decimal] = defaultdict(lambda: ZERO)
    # What a trader decided to correct moved no money, and what no session holds is no position's profit; both are on file.
    excused |= set(Fill.objects.filter(is_correction=True).values_list("account__name", flat=True))
    late = Discrepancy.objects.filter(kind=DiscrepancyKind.LATE_ORDER)
    excused |= set(late.values_list("account__name", flat=True))
    for position in Position.objects.select_related("account"):
        if position.status in (PositionStatus.PENDING, PositionStatus.OPEN) or position.dust:
            excused.add(position.account.name)
        profits[position.account.name, position.account.currency] += position.realized_pnl
    breaches = []
    for (key, currency), profit in profits.items():
        if key in excused or (key, currency) not in found:
            continue
        made = found[key, currency] - deposits.get((key, currency), ZERO)
        if made != profit:
            breaches.append(f"account {key}: its positions realized {profit} {currency}, the venue's books {made}")
    return breaches


def nothing_unknown_in_silence(now: datetime, limit: timedelta = LONGEST_IN_SILENCE) -> list[str]:
    """I5: no order stays in the air, or wanted gone, longer than ``limit`` without an alert about it."""
    late = Order.objects.filter(
        Q(status__in=(S.SUBMITTING, S.UNKNOWN)) | Q(status__in=LIVE_STATUSES, is_cancel_wanted=True),
        sent_at__lt=now - limit,
    )
    told = set(Event.objects.filter(topic=Topic.ALERTS).values_list("ids__order_id", flat=True))
    return [
        f"{order} is {order.status} since {order.sent_at} and nobody was told" for order in late if order.pk not in told
    ]


def journal_tells_each_life_once() -> list[str]:
    """I6: what the journal says of each order is a way through the table of legal moves, no step told twice, and ends
    where the row is."""
    lives: dict[int, list[str]] = defaultdict(list)
    events = Event.objects.filter(topic__in=ORDER_TOPICS).order_by("at", "id")
    for key, status in events.values_list("key", "data__status"):
        lives[key].append(status)
    fills = Counter(Fill.objects.values_list("order_id", flat=True))
    breaches = []
    for order in _own_orders():
        told = lives.get(order.pk, [])
        if fault := _fault_of(told, order.status, fills[order.pk]):
            breaches.append(f"{order} is {order.status}, {fault}: the journal says {' '.join(told) or 'nothing'}")
    return breaches


def _fault_of(told: Sequence[str], status: str, fills: int) -> str:
    # An order that scenarios make by rows begins where they put it; one that is open tells of each batch of fills.
    life = [one for index, one in enumerate(told) if one != S.OPENED or told[index - 1 : index] != [S.OPENED]]
    if len(told) - len(life) > fills:
        return "told as open more often than it was filled"
    for before, after in zip(life, life[1:], strict=False):
        if before == after:
            return f"told twice as {after}"
        if not _leads_to(before, after):
            return f"told as {after} after {before}"
    if status in (S.REQUESTED, S.READY, S.SUBMITTING) or not life:
        return "" if status in (S.REQUESTED, S.READY, S.SUBMITTING) else "untold"
    return "" if life[-1] == status else f"last told as {life[-1]}"


def _leads_to(before: str, after: str) -> bool:
    return after in ORDER_TRANSITIONS[before] or any(
        after in ORDER_TRANSITIONS[step] for step in ORDER_TRANSITIONS[before] & UNTOLD
    )


def nothing_accepted_when_stopped(oracle: Oracle) -> list[str]:
    """I7: between a session's stop and its next start the venue accepted no order for it."""
    stops: dict[int, list[tuple[datetime, datetime | None]]] = defaultdict(list)
    commands = Event.objects.filter(topic=Topic.COMMAND, data__command__in=("start", "stopped")).order_by("at", "id")
    for session_id, command, at in commands.values_list("key", "data__command", "at"):
        pauses = stops[session_id]
        if command == "stopped":
            pauses.append((at, None))
        elif pauses:
            pauses[-1] = (pauses[-1][0], at)
    sessions = dict(Intent.objects.values_list("pk", "position__session_id"))
    owners = {oid: sessions.get(intent) for oid, intent in Order.objects.values_list("client_order_id", "intent_id")}
    breaches = []
    for order in [*_ours(oracle), *_our_stops(oracle)]:
        arrived_at = datetime.fromtimestamp(order["arrivedAt"] / 1000, UTC)
        for stopped_at, started_at in stops.get(owners.get(order["clientOid"]) or 0, []):
            if stopped_at + CLOCK_MARGIN < arrived_at and (started_at is None or arrived_at < started_at):
                breaches.append(
                    f"{order['clientOid']} was accepted {arrived_at - stopped_at} after its session had stopped"
                )
    return breaches


def nothing_held_without_its_stop() -> list[str]:
    """I9: at rest, whatever was filled has been added up, and a position whose exits name a stop has it: as a price that a
    tracked session watches, or as an order at the venue over all that is held. No such order outlives what it protects, and
    whoever was told of a position without its stop was told of the end of that."""
    filled = Order.objects.filter(is_exit=False, filled__gt=0).values("intent_id")
    pending = Position.objects.filter(status=PositionStatus.PENDING, intents__in=filled).distinct()
    breaches = [f"position {one.pk} is PENDING though its entry was filled" for one in pending.order_by("pk")]
    resting = _resting_stops()
    held = Position.objects.filter(status=PositionStatus.OPEN, has_stop=True).select_related("session", "market")
    for position in held.order_by("pk"):
        if position.pk in resting:
            wanted, rests = round_quantity(position.quantity, position.market.rules), resting[position.pk]
            if rests != wanted:
                breaches.append(
                    f"position {position.pk} holds {_plain(wanted)}, its resting stop is over {_plain(rests)}"
                )
        elif position.stop_price is None:
            breaches.append(f"position {position.pk} holds {_plain(position.quantity)} without its stop")
        elif position.session.status not in TRACKED_STATUSES:
            breaches.append(f"position {position.pk} has a stop that nobody watches: {position.session.status}")
    return breaches + _outliving() + _told_of_and_not_over()


def _resting_stops() -> dict[int, Decimal]:
    """By position, over how much its stop at the venue is."""
    intents = dict(Intent.objects.filter(purpose=Intent.Purpose.REST_STOP).values_list("pk", "position_id"))
    orders = Order.objects.filter(intent_id__in=list(intents), status=S.OPENED, is_cancel_wanted=False)
    return {intents[order.intent_id]: order.quantity - order.filled for order in orders.exclude(trigger="")}


def _outliving() -> list[str]:
    resting = Intent.objects.filter(purpose__in=(Intent.Purpose.REST_STOP, Intent.Purpose.REST_TARGET))
    ended = resting.exclude(position__status__in=LIVE_POSITIONS)
    live = Order.objects.filter(intent_id__in=ended.values("pk"), status__in=LIVE_STATUSES).order_by("pk")
    return [f"{order} rests for a position that is over" for order in live]


def _told_of_and_not_over() -> list[str]:
    told = ("POSITION_UNPROTECTED", "POSITION_PROTECTED")
    events = Event.objects.filter(topic=Topic.ALERTS, data__alert__in=told).order_by("at", "id")
    last = dict(events.values_list("ids__position_id", "data__alert"))
    return [
        f"position {pk} was told of as unprotected and of nothing since" for pk, one in last.items() if one == told[0]
    ]


def _plain(quantity: Decimal) -> str:
    return f"{quantity.normalize():f}"


def snapshot(oracle: Oracle) -> dict[str, Any]:
    """All that a second ring could spoil: every row that bells speak of, the journal, and the venue's books."""
    rows: Sequence[type[models.Model]] = (Order, Fill, Intent, Position, TradingSession, TradingHalt, Signal, Event)
    return {
        **{model.__name__: list(model._default_manager.order_by("pk").values()) for model in rows},
        "exchange": {name: oracle[name] for name in ("orders", "stopOrders", "fills", "balances")},
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """I8: what is not as it was, in words."""
    found = []
    for name, was in before.items():
        if isinstance(was, list) and was != after[name]:
            known = {row["id"]: row for row in was}
            changed = [row for row in after[name] if known.get(row["id"]) != row]
            found.append(f"ringing again changed {len(changed)} of {name}: {changed[:3]}")
        elif was != after[name]:
            found.append(f"ringing again changed the {name}")
    return found


def lost(oracle: Oracle) -> int:
    """Orders there that have no row, and fills there that were not recorded."""
    return len(every_order_has_a_row(oracle)) + sum("not recorded" in one for one in fills_are_the_venues(oracle))


def _ours(oracle: Oracle) -> list[dict[str, Any]]:
    return [order for order in oracle["orders"] if (order["clientOid"] or "").startswith(CLIENT_ORDER_ID_PREFIX)]


def _our_stops(oracle: Oracle) -> list[dict[str, Any]]:
    """Every stop of ours the venue ever took, whatever became of it."""
    return [stop for stop in oracle["stopOrders"] if (stop["clientOid"] or "").startswith(CLIENT_ORDER_ID_PREFIX)]


def _own_orders() -> models.QuerySet[Order, Order]:
    # Orders of others that the platform may come to know of carry ids of theirs.
    return Order.objects.filter(client_order_id__startswith=CLIENT_ORDER_ID_PREFIX)

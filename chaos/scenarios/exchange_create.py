"""The venue fails while an order is created: whatever was accepted is adopted, whatever was not is given up, nothing is
sent a second time."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.utils import timezone

from chaos.scenarios import scenario
from chaos.scenarios.acts import leave
from chaos.world import ORDERS_PATH, World
from domain.market import OrderType
from domain.orders import OrderStatus
from orders.models import Order
from pipeline.models import Event
from pipeline.topics import Topic

S = OrderStatus

RICH = "10000000"
FUNDS_MISSING = "Balance insufficient!"
GATEWAY_STATUSES = (500, 502, 503, 504, 520, 523, 524)


@dataclass(frozen=True)
class Trial:
    """One order's fault, and what has to come of it: how it ends and how often the venue accepted and was asked."""

    kind: str
    when: str
    ends: str
    accepted: int
    sent: int = 1
    fault: dict[str, Any] = field(default_factory=dict)


ADOPTED = (S.CLOSED, 1)
GIVEN_UP = (S.NOT_PLACED, 0)


def _both(kind: str, **fault: Any) -> list[Trial]:
    return [Trial(kind, "after", *ADOPTED, fault=fault), Trial(kind, "before", *GIVEN_UP, fault=fault)]


def _try_all(stage: World, trials: list[Trial], seconds: float = 60) -> list[Order]:
    """Let every trial happen at once, each to an order of its own, and wait until each has ended as it should."""
    account = stage.account(RICH)
    orders = []
    for trial in trials:
        order = stage.ready_order(account)
        stage.order_fault(order, trial.kind, trial.when, **trial.fault)
        orders.append(order)
    stage.submit(*orders)
    for trial, order in zip(trials, orders, strict=True):
        stage.wait_order(order, S.CLOSED, S.NOT_PLACED, S.REJECTED, S.CANCELED, seconds=seconds)
        stage.expect_order(order, trial.ends, accepted=trial.accepted, sent=trial.sent)
    return orders


@scenario("answer-lost", rows=(24, 26, 28, 29, 33), needs_stage=False)
def answer_lost(stage: World) -> None:
    """The venue accepts and fills, and the answer hangs, is cut off, or is none."""
    _try_all(
        stage,
        [
            Trial("hang", "after", *ADOPTED),
            Trial("drop", "after", *ADOPTED),
            Trial("html", "after", *ADOPTED),
            Trial("code", "after", *ADOPTED, fault={"code": "408000", "msg": "Timeout"}),
        ],
    )


@scenario("answer-matrix", rows=(24, 25, 26, 27, 28, 29, 31), needs_stage=False)
def answer_matrix(stage: World) -> None:
    """Every way in which an answer can fail, each with and without an order behind it, all at the same time."""
    trials = [trial for status in GATEWAY_STATUSES for trial in _both("http", status=status, body="oops")]
    trials += [trial for kind in ("hang", "drop", "html", "empty") for trial in _both(kind)]
    trials += _both("body", body='{"code": "200000"}')
    trials += _both("code", code="408000", msg="Timeout")
    trials += _both("code", code="999999", msg="whatever")
    # The venue says that an order of this id is alive: it may be ours.
    trials += _both("code", code="400100", msg="The clientOid is duplicated.")
    trials += [Trial("truncated", "after", *ADOPTED)]
    _try_all(stage, trials)


@scenario("arrives-late", rows=(25,), needs_stage=False)
def arrives_late(stage: World) -> None:
    """A request is held up on its way until everybody has given it up; then it arrives."""
    order = stage.ready_order()
    # Longer than the patience that ends in NOT_PLACED: deadline 5 s, margin 5 s, three misses, each 2 s apart.
    seconds = 30 * stage.pace
    arrives_at = timezone.now() + timedelta(seconds=seconds)
    stage.order_fault(order, "delay", "before", seconds=seconds)
    stage.submit(order)
    stage.wait_order(order, S.NOT_PLACED)
    stage.wait(lambda: timezone.now() > arrives_at + timedelta(seconds=0.5), "the late request to arrive")
    stage.expect_order(order, S.NOT_PLACED, accepted=0, sent=1)


@scenario("not-looked-at", rows=(30, 48), needs_stage=False)
def not_looked_at(stage: World) -> None:
    """The venue refuses unread (too many requests, its clock): the same order goes again, others do not wait."""
    trials = [
        Trial("code", "before", S.CLOSED, 1, sent=2, fault={"code": "429000", "msg": "Too many requests"}),
        Trial(
            "http", "before", S.CLOSED, 1, sent=2, fault={"status": 429, "body": '{"code": "429000", "msg": "slow"}'}
        ),
        Trial("code", "before", S.CLOSED, 1, sent=2, fault={"code": "400002", "msg": "KC-API-TIMESTAMP Invalid"}),
    ]
    neighbour = stage.ready_order()
    stage.submit(neighbour)
    _try_all(stage, trials)
    stage.wait_order(neighbour, S.CLOSED)
    stage.expect_order(neighbour, S.CLOSED, accepted=1, sent=1)


@scenario("reads-lag", rows=(32,), needs_stage=False)
def reads_lag(stage: World) -> None:
    """The answer is lost and the venue does not show the order for longer than its deadline: patience finds it."""
    orders = [stage.ready_order(stage.account()) for _ in range(2)]
    for order in orders:
        stage.order_fault(order, "drop", "after")
    # Beyond the deadline (5 s) and its margin (5 s), before which a miss proves nothing, and short of three misses after.
    stage.settings(readLagMs=int(11_000 * stage.pace))
    stage.submit(*orders)
    for order in orders:
        stage.wait_order(order, S.CLOSED, S.NOT_PLACED)
        stage.expect_order(order, S.CLOSED, accepted=1, sent=1)


@scenario("reads-lag-many-bells", rows=(16, 32), needs_stage=False)
def reads_lag_many_bells(stage: World) -> None:
    """As reads-lag and beyond the margin, while everybody rings for a look over and over: a thousand looks in one moment are
    no more evidence than one."""
    order = stage.ready_order()
    stage.order_fault(order, "drop", "after")
    stage.settings(readLagMs=int(12_000 * stage.pace))
    stage.submit(order)
    ended = Order.objects.filter(pk=order.pk, status__in=(S.CLOSED, S.NOT_PLACED))

    def is_over() -> bool:
        stage.ring("orders.look", order_ids=[order.pk])
        stage.count("bell")
        return ended.exists()

    stage.wait(is_over, f"{order} to end")
    stage.expect_order(order, S.CLOSED, accepted=1, sent=1)


@scenario("refused", rows=(34, 35), needs_stage=False)
def refused(stage: World) -> None:
    """The venue's clear no (no funds, too small, a limit of its own) is final, has its reason, and is not tried again."""
    poor = stage.account("10")
    orders = {
        "200004": stage.ready_order(poor),
        "400100": stage.ready_order(quantity=stage.market().min_quantity / 10),
        "300000": stage.ready_order(),
    }
    stage.order_fault(orders["300000"], "code", "before", code="300000", msg="Price limit")
    stage.submit(*orders.values())
    for order in orders.values():
        stage.wait_order(order, S.REJECTED)
        stage.expect_order(order, S.REJECTED, accepted=0, sent=1)
    stage.expect(orders["200004"].reason == "200004", f"wanted the venue's code 200004, was {orders['200004'].reason}")
    _expect_told(stage, list(orders.values()))
    leave(stage, *(stage.position_of(order).session for order in orders.values()))


def _expect_told(stage: World, orders: list[Order]) -> None:
    told = Event.objects.filter(
        topic=Topic.ORDER_UPDATES, key__in=[order.pk for order in orders], data__status=S.REJECTED
    )
    stage.expect(told.count() == len(orders), f"wanted {len(orders)} rejections told, were {told.count()}")


@scenario("look-ups-fail", rows=(36,), needs_stage=False)
def look_ups_fail(stage: World) -> None:
    """The answer is lost, and every look-up fails for longer than an order is waited for: no proof of anything."""
    order = stage.ready_order()
    stage.order_fault(order, "drop", "after")
    key = order.account.name
    stage.fault(method="GET", path=f"{ORDERS_PATH}*", apiKey=key, kind="http", status=503, count=None)
    stage.submit(order)
    stage.wait_order(order, S.UNKNOWN)
    # From here on a miss would count.
    counts_from = timezone.now() + timedelta(seconds=11 * stage.pace)
    stage.wait(lambda: timezone.now() > counts_from, "the deadline and its margin to pass")
    unknown = Order.objects.filter(pk=order.pk, status=S.UNKNOWN)
    before = _look_ups(stage, key)
    stage.wait(lambda: _look_ups(stage, key) >= before + 4 or not unknown.exists(), "four look-ups to fail")
    stage.expect_order(order, S.UNKNOWN, accepted=1, sent=1)
    stage.heal()
    stage.wait_order(order, S.CLOSED)
    stage.expect_order(order, S.CLOSED, accepted=1, sent=1)


def _look_ups(stage: World, key: str) -> int:
    log = stage.oracle(requests=20_000, apiKey=key)["requests"]
    return sum(line["method"] == "GET" and line["path"].startswith(ORDERS_PATH) for line in log)


@scenario("limit-order-adopted", rows=(24, 33), needs_stage=False)
def limit_order_adopted(stage: World) -> None:
    """An order that rests at the venue while its answer is lost is found open, and cancelled when its session stops."""
    price = stage.market().last_quote.last
    resting = (price / 2).quantize(stage.market().tick_size)
    order = stage.ready_order(order_type=OrderType.LIMIT, price=resting)
    stage.order_fault(order, "hang", "after")
    stage.submit(order)
    stage.wait_order(order, S.OPENED)
    leave(stage, stage.position_of(order).session)
    stage.expect_order(order, S.CANCELED, accepted=1, sent=1)

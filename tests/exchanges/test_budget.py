"""One budget for all workers: what each kind of call may use, what is left for exits, and a Redis that is away."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from pytest_django import Settings

from exchanges import shared
from exchanges.budget import Budget, Use, asking_for_history
from exchanges.gateway import ExchangeUnavailable, Gateway
from exchanges.venues import CAUTIOUS, PUBLIC, VENUES, Pool, venue_of
from tests.conftest import Bells
from tests.race import at_once

HALF_MINUTE = Pool(weight=100, seconds=30)


@pytest.fixture(autouse=True)
def _empty(bells: Bells) -> None:
    """No pool has been drawn from."""


@pytest.fixture
def redis_away(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Redis that nobody reaches, for a test."""
    settings.REDIS_URL = "redis://127.0.0.1:9/0"
    monkeypatch.setattr(shared, "_away_until", 0.0)
    monkeypatch.setattr(shared, "_is_away", False)
    yield
    shared._away_until, shared._is_away = 0.0, False


def taken(pool: Budget, use: Use, weight: int = 1) -> int:
    """How often ``weight`` fits before it is refused."""
    count = 0
    while True:
        try:
            pool.take(weight, use)
        except ExchangeUnavailable:
            return count
        count += 1


@pytest.mark.parametrize(
    ("use", "fits"), [(Use.HISTORY, 20), (Use.READ, 60), (Use.LOOK, 80), (Use.ENTRY, 90), (Use.EXIT, 100)]
)
def test_each_kind_of_call_uses_its_part_of_the_pool_and_no_more(use: Use, fits: int) -> None:
    assert taken(Budget("one", HALF_MINUTE), use) == fits


def test_whatever_the_others_use_up_the_last_tenth_is_left_for_exits() -> None:
    pool = Budget("one", HALF_MINUTE)

    shares = [taken(pool, use) for use in (Use.HISTORY, Use.READ, Use.LOOK, Use.ENTRY, Use.EXIT)]

    assert shares == [20, 40, 20, 10, 10]


@pytest.mark.parametrize("use", [Use.READ, Use.EXIT])
def test_whoever_asks_for_history_has_its_part_of_whatever_pool_and_others_meanwhile_have_theirs(use: Use) -> None:
    with asking_for_history():
        of_history = taken(Budget("one", HALF_MINUTE), use)
        others = at_once([lambda: taken(Budget("two", HALF_MINUTE), Use.READ)])

    assert (of_history, others) == (20, [60])
    assert taken(Budget("three", HALF_MINUTE), use) == use.value


def test_of_a_pool_too_small_to_be_parted_history_has_one_call_when_nobody_else_has_called() -> None:
    small = Pool(weight=4, seconds=30)
    Budget("two", small).take(1, Use.READ)

    with asking_for_history():
        alone = taken(Budget("one", small), Use.READ)
        second = taken(Budget("two", small), Use.READ)

    assert (alone, second) == (1, 0)


def test_a_refusal_uses_nothing_up() -> None:
    pool = Budget("one", HALF_MINUTE)
    taken(pool, Use.READ)

    for _ in range(100):
        with pytest.raises(ExchangeUnavailable):
            pool.take(1, Use.READ)

    assert pool.used() == 60


def test_weights_add_up() -> None:
    pool = Budget("one", HALF_MINUTE)

    assert taken(pool, Use.EXIT, weight=15) == 6
    assert pool.used() == 90
    assert taken(pool, Use.EXIT, weight=10) == 1


def test_accounts_have_pools_of_their_own() -> None:
    mine, yours = Budget("exchange:1:account:1", HALF_MINUTE), Budget("exchange:1:account:2", HALF_MINUTE)
    taken(mine, Use.EXIT)

    assert taken(yours, Use.EXIT) == 100


def test_many_workers_together_never_take_more_than_there_is() -> None:
    results = at_once([lambda: taken(Budget("one", HALF_MINUTE), Use.EXIT)] * 8)

    assert sum(results) == 100


@pytest.mark.parametrize(("weight", "seconds"), [(1, 30.5), (5, 32.5), (20, 40)])
def test_a_refusal_says_after_how_long_it_fits(weight: int, seconds: float) -> None:
    pool = Budget("one", HALF_MINUTE)
    taken(pool, Use.READ)

    with pytest.raises(ExchangeUnavailable, match=f"wanted {weight} of the 60") as refused:
        pool.take(weight, Use.READ)

    # The window ends in 30 s, and then what was counted in it fades away evenly: 2 a second.
    assert refused.value.retry_after is not None
    assert refused.value.retry_after.total_seconds() == pytest.approx(seconds, abs=0.7)


def test_what_was_used_fits_again_when_its_time_is_over() -> None:
    pool = Budget("one", Pool(weight=10, seconds=1))
    assert taken(pool, Use.EXIT) == 10

    with pytest.raises(ExchangeUnavailable) as refused:
        pool.take(1, Use.EXIT)
    assert refused.value.retry_after is not None
    time.sleep(refused.value.retry_after.total_seconds() + 0.05)
    pool.take(1, Use.EXIT)


def test_a_block_ends_by_itself_and_says_when() -> None:
    pool = Budget("one", HALF_MINUTE)
    pool.block(timedelta(milliseconds=300))

    with pytest.raises(ExchangeUnavailable, match="rate limit") as refused:
        pool.check_block(shared.client().get(pool.blocked_key))  # type: ignore[arg-type]

    assert refused.value.retry_after is not None
    assert timedelta(0) < refused.value.retry_after <= timedelta(milliseconds=300)
    time.sleep(0.35)
    pool.check_block(shared.client().get(pool.blocked_key))  # type: ignore[arg-type]


def test_no_word_of_a_venue_blocks_for_ever() -> None:
    pool = Budget("one", HALF_MINUTE)

    pool.block(timedelta(days=365))

    assert shared.client().ttl(pool.blocked_key) == 120


def test_every_call_of_a_gateway_has_its_weight() -> None:
    calls = {name for name, value in vars(Gateway).items() if callable(value) and not name.startswith("_")}

    for allowance in (*(venue.allowance for venue in VENUES.values()), CAUTIOUS):
        assert set(allowance.calls) == calls
        assert {pool for pool, _ in allowance.calls.values()} == set(allowance.pools)


def test_a_venue_nobody_wrote_figures_down_for_is_asked_cautiously() -> None:
    assert venue_of("unheard_of").allowance is CAUTIOUS


def test_what_a_binance_account_reads_is_counted_for_its_address_and_its_orders_apart() -> None:
    allowance = venue_of("binance").allowance

    assert {name: pool for name, (pool, _) in allowance.calls.items() if pool != PUBLIC} == {"order_create": "orders"}
    # All that one account's orders weigh in a minute fits beside the rest of what its address may.
    orders, address = allowance.pools["orders"], allowance.pools[PUBLIC]
    assert address.weight + orders.weight * address.seconds // orders.seconds == 6000


# -- Redis ------------------------------------------------------------------------------------------------------------


def test_without_redis_everything_passes(redis_away: None) -> None:
    pool = Budget("one", HALF_MINUTE)

    for _ in range(200):
        pool.take(1, Use.READ)
    pool.block(timedelta(seconds=5))

    assert pool.used() is None


def test_that_redis_is_away_is_said_once_and_that_it_is_back_once(
    redis_away: None, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exchanges.shared")
    monkeypatch.setattr(shared, "AWAY_SECONDS", 0.0)  # asked again each time
    pool = Budget("one", HALF_MINUTE)

    for _ in range(3):
        pool.take(1, Use.READ)
    settings.REDIS_URL = str(settings.CELERY_BROKER_URL)
    for _ in range(3):
        pool.take(1, Use.READ)

    assert [record.message for record in caplog.records] == [
        "Redis is away (ConnectionError): until it is back, venues are asked without a rate budget",
        "Redis is back, and the rate budgets with it",
    ]


def test_a_redis_that_hangs_costs_a_worker_less_than_a_second_and_then_nothing(
    settings: Settings, redis_away: None
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        settings.REDIS_URL = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        pool = Budget("one", HALF_MINUTE)
        started = time.monotonic()

        for _ in range(100):
            pool.take(1, Use.ENTRY)

        assert time.monotonic() - started < 1

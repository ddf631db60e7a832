"""The library, configurations and signals at the API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from domain.strategy import SignalKind
from marketdata.models import Feed
from strategies.library import LIBRARY
from strategies.models import StrategyConfig
from tests.api.conftest import Api
from tests.factories import NOON, make_config, make_exchange, make_feed, make_market, make_signal

NEW_CONFIG = {
    "name": "Strategy1", "strategy": "sma_cross", "parameters": {"fast": 10, "slow": 30}, "exchange": "simulator",
    "symbol": "BTC/USDT", "timeframe": "5m",
}  # fmt: skip


def test_the_library_describes_every_strategy_and_its_parameters(alice: Api) -> None:
    listed = alice.get("strategies").json()

    [cross] = [one for one in listed if one["name"] == "sma_cross"]
    assert [one["name"] for one in listed] == sorted(LIBRARY)
    assert cross == alice.get("strategies/sma_cross").json()
    assert cross["title"] == "SMA crossover"
    assert cross["description"].startswith("Moving-average crossover: follow a trend")
    assert cross["parameters"]["properties"]["fast"] == {
        "default": 20, "description": "Candles in the short average.", "maximum": 200, "minimum": 2, "title": "Fast average",
        "type": "integer",
    }  # fmt: skip
    assert (cross["origin"], cross["warm_up"]) == ("library", 51)
    assert cross["chart"][1] == {
        "role": "SLOW", "indicator": "sma", "output": "sma", "parameters": {"period": 50}, "pane": "price", "scale": 1.0,
        "level": None, "timeframe": "", "symbol": "",
    }  # fmt: skip


def test_an_unknown_strategy_is_a_404_that_names_the_known_ones(alice: Api) -> None:
    answer = alice.get("strategies/martingale")

    assert answer.status_code == 404
    assert answer.json() == {
        "code": "not_found",
        "detail": "wanted a strategy that there is, was 'martingale'",
    }


def test_a_configuration_by_exchange_and_symbol_brings_its_feed_into_being(alice: Api) -> None:
    market = make_market()

    answer = alice.post("configs", NEW_CONFIG)

    config = StrategyConfig.objects.get()
    assert answer.status_code == 201
    assert answer.json() == {
        "id": config.pk, "owner": "alice", "name": "Strategy1", "exchange_name": "simulator", "market": market.pk,
        "symbol": "BTC/USDT", "timeframe": "5m", "feed": Feed.objects.get().pk, "strategy": "sma_cross",
        "parameters": {"fast": 10, "slow": 30}, "is_needed": False, "created_at": answer.json()["created_at"],
    }  # fmt: skip
    assert config.owner == alice.user


def test_a_configuration_brings_the_feeds_into_being_that_it_looks_at(alice: Api) -> None:
    make_market(symbol="ETH/USDT")
    make_market()
    values = {
        **NEW_CONFIG,
        "strategy": "trend_filter",
        "parameters": {"trend_symbol": "ETH/USDT", "trend_timeframe": "4h"},
    }

    made = alice.post("configs", values).json()
    beside = [str(feed) for feed in StrategyConfig.objects.get().informative_feeds.all()]
    alice.patch(f"configs/{made['id']}", {"parameters": {"trend_timeframe": "8h"}})

    assert beside == ["simulator-ETH/USDT-4h"]
    assert [str(feed) for feed in StrategyConfig.objects.get().informative_feeds.all()] == ["simulator-BTC/USDT-8h"]


def test_a_configuration_that_looks_at_a_market_that_there_is_not_is_refused(alice: Api) -> None:
    make_market()
    values = {**NEW_CONFIG, "strategy": "trend_filter", "parameters": {"trend_symbol": "MARS/USDT"}}

    refused = alice.post("configs", values)
    made = alice.post("configs", {**values, "parameters": {}}).json()
    changed = alice.patch(f"configs/{made['id']}", {"parameters": {"trend_symbol": "MARS/USDT"}})

    for answer in (refused, changed):
        assert answer.status_code == 400
        assert answer.json()["fields"] == {"parameters": ["wanted a market of simulator to look at, was 'MARS/USDT'"]}


def test_a_configuration_by_market_shares_the_feed_of_others(alice: Api, bob: Api) -> None:
    feed = make_feed()
    values = {"name": "mine", "strategy": "rsi_reversion", "market": feed.market_id, "timeframe": "1m"}

    made = [trader.post("configs", values).json()["feed"] for trader in (alice, bob)]

    assert made == [feed.pk, feed.pk]


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"strategy": "martingale"}, {"strategy": ["wanted a strategy that there is, was 'martingale'"]}),
        ({"parameters": []}, {"parameters": ['Expected a dictionary of items but got type "list".']}),
        (
            {"parameters": {"fast": 1, "slow": "many"}},
            {
                "parameters": [
                    "fast: Input should be greater than or equal to 2, was 1",
                    "slow: Input should be a valid integer, unable to parse string as an integer, was 'many'",
                ]
            },
        ),
        ({"parameters": {"speed": 3}}, {"parameters": ["speed: Extra inputs are not permitted, was 3"]}),
        (
            {"parameters": {"fast": 30, "slow": 10}},
            {"parameters": ["sma_cross: Value error, wanted fast below slow, was fast=30 and slow=10"]},
        ),
        (
            {"parameters": {"\ud800": 1}},
            {"parameters": ["wanted text that can be written as UTF-8, was something else"]},
        ),
        (
            {"parameters": {"fast": "\ud800"}},
            {"parameters": ["wanted text that can be written as UTF-8, was something else"]},
        ),
        ({"exchange": None}, {"exchange": ["This field may not be null."]}),
        ({"exchange": "mtgox"}, {"exchange": ["wanted the id or the name of an exchange, was 'mtgox'"]}),
        ({"symbol": "BTC/EUR"}, {"symbol": ["wanted a symbol of simulator, was 'BTC/EUR'"]}),
        (
            {"symbol": "OLD/USDT"},
            {"market": ["wanted a market that is traded, was OLD/USDT at simulator, which is not"]},
        ),
        ({"market": 10**30}, {"market": [f'Invalid pk "{10**30}" - object does not exist.']}),
        ({"market": "BTC"}, {"market": ["Incorrect type. Expected pk value, received str."]}),
        ({"timeframe": "\ud800"}, {"timeframe": ['"\ud800" is not a valid choice.']}),
        ({"parameters": {"50%": 1}}, {"parameters": ["50%: Extra inputs are not permitted, was 1"]}),
        ({"timeframe": "7m"}, {"timeframe": ['"7m" is not a valid choice.']}),
        ({"name": "taken"}, {"name": ["wanted a name that none of your other configurations has, was 'taken'"]}),
        ({"name": ""}, {"name": ["This field may not be blank."]}),
    ],
)
def test_a_bad_configuration_is_refused_with_its_field(
    alice: Api, change: dict[str, Any], fields: dict[str, Any]
) -> None:
    make_market()
    make_market(symbol="OLD/USDT", is_active=False)
    make_config(name="taken")

    answer = alice.post("configs", {**NEW_CONFIG, **change})

    assert answer.status_code == 400
    assert answer.json()["fields"] == fields
    assert StrategyConfig.objects.count() == 1
    assert Feed.objects.count() == 1


@pytest.mark.parametrize(
    ("left_out", "given", "message"),
    [
        (("exchange", "symbol"), set(), "market: wanted a market's id, or exchange and symbol, was neither"),
        (("exchange",), set(), "market: wanted a market's id, or exchange and symbol, was neither"),
        (
            ("exchange",),
            {"market": "other"},
            "market: wanted the exchange and symbol given with it, was ETH/USDT at simulator",
        ),
    ],
)
def test_a_configuration_needs_one_market(alice: Api, left_out: tuple[str, ...], given: set[str], message: str) -> None:
    make_market()
    other = make_market(symbol="ETH/USDT")
    values = {name: value for name, value in NEW_CONFIG.items() if name not in left_out}

    answer = alice.post("configs", {**values, **({"market": other.pk} if given else {})})

    assert (answer.status_code, answer.json()["detail"]) == (400, message)


def test_name_and_parameters_are_changed_while_nothing_runs(alice: Api) -> None:
    config = make_config()

    answer = alice.patch(
        f"configs/{config.pk}", {"name": "new", "parameters": {"fast": 4, "slow": 9}, "is_needed": True}
    )

    config.refresh_from_db()
    assert answer.status_code == 200
    assert (config.name, config.parameters, config.is_needed) == ("new", {"fast": 4, "slow": 9}, False)


def test_parameters_that_an_active_session_uses_are_not_changed(alice: Api) -> None:
    config = make_config(is_needed=True)

    refused = alice.patch(f"configs/{config.pk}", {"parameters": {"fast": 4, "slow": 9}})
    renamed = alice.patch(f"configs/{config.pk}", {"name": "still mine"})

    config.refresh_from_db()
    assert (refused.status_code, refused.json()["code"]) == (409, "config_in_use")
    assert (renamed.status_code, config.name, config.parameters) == (200, "still mine", {"fast": 2, "slow": 3})


def test_bad_new_parameters_are_refused(alice: Api) -> None:
    config = make_config()

    answer = alice.patch(f"configs/{config.pk}", {"parameters": {"fast": 0}})

    assert answer.status_code == 400
    assert answer.json()["fields"] == {"parameters": ["fast: Input should be greater than or equal to 2, was 0"]}


def test_configurations_are_found_by_strategy_and_market(alice: Api) -> None:
    cross = make_config()
    reversion = make_config(strategy="rsi_reversion", feed=make_feed(make_market(make_exchange("other"), "ETH/USDT")))

    found = [
        alice.ids("configs", **by) for by in ({"strategy": "sma_cross"}, {"exchange": "other"}, {"symbol": "ETH/USDT"})
    ]

    assert found == [[cross.pk], [reversion.pk], [reversion.pk]]


def test_signals_are_found_by_configuration_kind_and_candle(alice: Api) -> None:
    config, other = make_config(), make_config()
    enter = make_signal(config, closed_at=NOON)
    leave = make_signal(config, SignalKind.EXIT_LONG, closed_at=NOON + timedelta(minutes=5))
    quiet = make_signal(other, SignalKind.NOTHING, closed_at=NOON)

    found = {
        "of config": alice.ids("signals", config=config.pk),
        "of kinds": alice.ids("signals", kind=["ENTER_LONG", "NOTHING"]),
        "of a candle": alice.ids("signals", candle_open_at=(NOON - timedelta(minutes=1)).isoformat(), config=config.pk),
        "from noon": alice.ids("signals", candle_open_at__gte=NOON.isoformat()),
        "before noon": alice.ids("signals", candle_open_at__lt=NOON.isoformat()),
    }

    assert found == {
        "of config": [leave.pk, enter.pk], "of kinds": [quiet.pk, enter.pk], "of a candle": [enter.pk],
        "from noon": [leave.pk],
        "before noon": [quiet.pk, enter.pk],
    }  # fmt: skip

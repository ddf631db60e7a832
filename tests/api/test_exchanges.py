"""Venues, markets, quotes and accounts at the API."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.candles import Timeframe
from exchanges.accounts import account_pause, risk_profile_change
from exchanges.credentials import Credentials
from exchanges.models import Account, Exchange, RiskProfile
from exchanges.presets import LIMIT_FIELDS, PRESETS, preset_of, preset_values
from tests.api.conftest import Api
from tests.factories import make_account, make_balance, make_candles, make_exchange, make_feed, make_market, make_quote
from tests.venue import Venue

NEW_ACCOUNT = {"exchange": "simulator", "name": "main", "api_key": "k-1234", "secret": "canary", "passphrase": "canary"}

# A risk profile in which nothing is limited, as it is shown.
NO_LIMITS = {
    **dict.fromkeys(LIMIT_FIELDS), "preset": "CUSTOM", "cooldown_minutes": 60, "var_method": "HISTORICAL",
    "var_confidence": 0.95, "var_horizon_hours": 24,
}  # fmt: skip


def test_a_superuser_sets_up_an_exchange_and_traders_read_it(root: Api, alice: Api) -> None:
    made = root.post("exchanges", {"name": "kucoin"}).json()

    answer = alice.get(f"exchanges/{made['id']}")

    assert answer.json() == {
        "id": made["id"], "name": "kucoin", "ccxt_id": "kucoin", "base_url": "", "is_enabled": True,
        "public_weight": None, "clock_speed": 1.0,
        "clock_anchor_at": None, "clock_venue_at": None, "markets_synced_at": None, "stream_seen_at": None,
        "status": "OPEN", "status_message": "", "status_read_at": None, "unreachable_at": None,
    }  # fmt: skip


@pytest.mark.parametrize("ccxt_id", ["kucoin", "binance", "mexc"])
def test_an_exchange_may_be_any_that_ccxt_speaks_to(root: Api, ccxt_id: str) -> None:
    answer = root.post("exchanges", {"name": "another", "ccxt_id": ccxt_id})

    assert answer.status_code == 201
    assert Exchange.objects.get().ccxt_id == ccxt_id


def test_an_exchange_is_changed_by_a_superuser(root: Api) -> None:
    exchange = make_exchange()

    answer = root.patch(f"exchanges/{exchange.pk}", {"is_enabled": False, "markets_synced_at": None})

    exchange.refresh_from_db()
    assert answer.status_code == 200
    assert not exchange.is_enabled
    assert exchange.markets_synced_at is not None  # read only


@pytest.mark.parametrize(
    ("method", "path"), [("post", "exchanges"), ("patch", "exchanges/{id}"), ("post", "exchanges/{id}/sync")]
)
def test_a_trader_cannot_touch_an_exchange(alice: Api, method: str, path: str) -> None:
    exchange = make_exchange()

    answer = alice.call(method, path.format(id=exchange.pk), {"name": "mine"})

    assert answer.status_code == 403
    assert answer.json() == {"code": "permission_denied", "detail": "wanted a superuser, was an ordinary trader"}
    assert list(Exchange.objects.values_list("name", flat=True)) == ["simulator"]


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({}, "name", "This field is required."),
        ({"name": "simulator"}, "name", "exchange with this name already exists."),
        (
            {"name": "not a slug"},
            "name",
            'Enter a valid "slug" consisting of letters, numbers, underscores or hyphens.',
        ),
        ({"name": "x", "ccxt_id": "mtgox"}, "ccxt_id", "wanted an exchange that ccxt speaks to, was 'mtgox'"),
        ({"name": "x", "base_url": "localhost"}, "base_url", "Enter a valid URL."),
        ({"name": "x", "clock_speed": -1}, "clock_speed", "Ensure this value is greater than or equal to 0.0."),
        ({"name": "x", "clock_speed": "fast"}, "clock_speed", "A valid number is required."),
        ({"name": "x", "clock_speed": "NaN"}, "clock_speed", "A valid number is required."),
    ],
)
def test_a_bad_exchange_is_refused_with_its_field(root: Api, values: dict[str, Any], field: str, message: str) -> None:
    make_exchange()

    answer = root.post("exchanges", values)

    assert answer.status_code == 400
    assert answer.json() == {"code": "invalid", "detail": f"{field}: {message}", "fields": {field: [message]}}


def test_sync_reads_the_venues_markets_and_clock(venue: Venue, root: Api) -> None:
    Exchange.objects.update(markets_synced_at=None, clock_venue_at=None)

    answer = root.post(f"exchanges/{venue.exchange.pk}/sync")

    assert answer.status_code == 200
    assert answer.json()["markets"] == venue.exchange.markets.filter(is_active=True).count()
    assert answer.json()["clock_venue_at"] is not None
    assert root.ids("markets", symbol="BTC/USDT") == [venue.market.pk]


def test_a_venue_that_cannot_be_reached_is_a_503_with_the_reason(root: Api) -> None:
    exchange = make_exchange()

    answer = root.post(f"exchanges/{exchange.pk}/sync")

    assert answer.status_code == 503
    assert answer.json()["code"] == "exchange_unavailable"
    assert answer.json()["detail"]


def test_markets_are_found_by_exchange_symbol_and_activity(alice: Api) -> None:
    bitcoin, ether = make_market(), make_market(symbol="ETH/USDT", is_active=False)
    other = make_market(make_exchange("other"))

    found = {
        "all": alice.ids("markets"),
        "by name": alice.ids("markets", exchange="other"),
        "by id": alice.ids("markets", exchange=bitcoin.exchange_id),
        "by symbol": alice.ids("markets", symbol="ETH/USDT"),
        "active": alice.ids("markets", is_active="true", exchange="simulator"),
        "of nobody": alice.ids("markets", exchange="nobody"),
        "of none": alice.ids("markets", exchange=10**30),
    }

    assert found == {
        "all": [other.pk, ether.pk, bitcoin.pk], "by name": [other.pk], "by id": [ether.pk, bitcoin.pk],
        "by symbol": [ether.pk],
        "active": [bitcoin.pk], "of nobody": [], "of none": [],
    }  # fmt: skip


def test_figures_are_exact_strings_without_trailing_zeros(alice: Api) -> None:
    market = make_market(min_quantity=Decimal("0.000000000000000001"), max_quantity=Decimal("999999999999999999.5"))

    row = alice.get(f"markets/{market.pk}").json()

    assert (row["tick_size"], row["lot_size"], row["contract_size"]) == ("0.1", "0.00001", "1")
    assert (row["min_quantity"], row["max_quantity"]) == ("0.000000000000000001", "999999999999999999.5")
    assert (row["maker_fee"], row["min_notional"]) == ("0.001", "0.1")
    assert "venue_info" not in row


def test_a_quote_is_asked_for_by_its_market(alice: Api) -> None:
    quote = make_quote(make_market(), "50000.10")
    make_quote(make_market(symbol="ETH/USDT"))

    one, listed = alice.get(f"quotes/{quote.market_id}").json(), alice.get("quotes", symbol="BTC/USDT").json()

    assert (one["symbol"], one["exchange_name"], one["last"]) == ("BTC/USDT", "simulator", "50000.1")
    assert [row["market"] for row in listed["results"]] == [quote.market_id]


def test_quotes_of_several_symbols_say_how_old_they_are(alice: Api) -> None:
    make_quote(make_market(), age=timedelta(seconds=90))
    for symbol in ("ETH/USDT", "LTC/USDT"):
        make_quote(make_market(symbol=symbol), age=timedelta(seconds=-5))  # by a clock before ours

    rows = alice.get("quotes", symbols="BTC/USDT,ETH/USDT", exchange="simulator").json()["results"]

    ages = {row["symbol"]: row["age_seconds"] for row in rows}
    assert ages.keys() == {"BTC/USDT", "ETH/USDT"}
    assert 90 <= ages["BTC/USDT"] < 100
    assert ages["ETH/USDT"] == 0


def test_markets_tell_their_timeframes_and_are_paged_by_name(alice: Api) -> None:
    names = ["LTC/USDT", "BTC/USDT", "ETH/BTC"]
    markets = {name: make_market(symbol=name) for name in names}
    make_feed(markets["BTC/USDT"])
    make_feed(markets["BTC/USDT"], Timeframe.H1)

    first = alice.get("markets", order="name", page_size=2).json()
    second = alice.get("markets?" + first["next"].partition("?")[2]).json()

    assert [row["symbol"] for row in first["results"] + second["results"]] == sorted(names)
    assert [row["timeframes"] for row in first["results"]] == [["1m", "1h"], []]
    assert alice.ids("markets", has_feed="true") == [markets["BTC/USDT"].pk]
    assert alice.ids("markets", has_feed="false", search="btc") == [markets["ETH/BTC"].pk]
    assert alice.get("markets", order="age").json()["detail"] == "order: wanted newest or name, was 'age'"


def test_an_account_is_created_with_sealed_keys_and_default_limits(alice: Api) -> None:
    exchange = make_exchange()

    answer = alice.post("accounts", NEW_ACCOUNT)

    account = Account.objects.get()
    assert answer.status_code == 201
    assert answer.json() == {
        "id": account.pk, "owner": "alice", "exchange": exchange.pk, "exchange_name": "simulator", "name": "main",
        "currency": "USDT", "is_paper": False, "key_hint": "…1234", "status": "ACTIVE", "status_reason": "", "balances": [],
        "keys_checked_at": None, "keys_warning": "not checked yet: the venue could not be asked",
        "balances_synced_at": None, "risk_profile": {**NO_LIMITS, "max_open_positions": 5},
        "created_at": answer.json()["created_at"],
    }  # fmt: skip
    assert account.credentials.reveal() == Credentials("k-1234", "canary", "canary")


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"api_key": None}, "api_key", "This field may not be null."),
        ({"secret": ""}, "secret", "This field may not be blank."),
        ({"secret": "x" * 201}, "secret", "Ensure this field has no more than 200 characters."),
        ({"exchange": "mtgox"}, "exchange", "wanted the id or the name of an exchange, was 'mtgox'"),
        ({"exchange": 10**30}, "exchange", f"wanted the id or the name of an exchange, was {10**30}"),
        ({"exchange": True}, "exchange", "wanted the id or the name of an exchange, was True"),
        ({"exchange": ["simulator"]}, "exchange", "wanted the id or the name of an exchange, was ['simulator']"),
        ({"exchange": "\0"}, "exchange", "wanted the id or the name of an exchange, was '\\x00'"),
        ({"exchange": "\ud800"}, "exchange", "wanted the id or the name of an exchange, was '\\ud800'"),
        ({"name": "taken"}, "name", "wanted a name that none of your other accounts has, was 'taken'"),
        ({"name": "x" * 81}, "name", "Ensure this field has no more than 80 characters."),
        ({"name": {}}, "name", "Not a valid string."),
        ({"currency": ""}, "currency", "This field may not be blank."),
    ],
)
def test_a_bad_account_is_refused_with_its_field(alice: Api, change: dict[str, Any], field: str, message: str) -> None:
    make_account(name="taken")

    answer = alice.post("accounts", {**NEW_ACCOUNT, **change})

    assert answer.status_code == 400
    assert answer.json() == {"code": "invalid", "detail": f"{field}: {message}", "fields": {field: [message]}}
    assert Account.objects.count() == 1


def test_two_traders_may_use_the_same_name(alice: Api, bob: Api) -> None:
    make_account(owner=bob.user)

    answer = alice.post("accounts", NEW_ACCOUNT)

    assert answer.status_code == 201


def test_a_name_taken_in_the_same_instant_is_a_conflict(alice: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    make_account()
    monkeypatch.setattr("exchanges.api._free_name", lambda owner, name: name)

    answer = alice.post("accounts", NEW_ACCOUNT)

    assert answer.status_code == 409
    assert answer.json() == {"code": "conflict", "detail": "wanted something new, was there already"}


def test_new_keys_replace_the_old_and_lift_the_pause(alice: Api) -> None:
    account = make_account()
    account_pause(account.pk, "the venue refused the keys")

    answer = alice.patch(f"accounts/{account.pk}", {"api_key": "new-5678", "secret": "s", "passphrase": "p"})

    account.refresh_from_db()
    assert (answer.json()["key_hint"], answer.json()["status"], answer.json()["status_reason"]) == (
        "…5678",
        "ACTIVE",
        "",
    )
    assert account.credentials.reveal() == Credentials("new-5678", "s", "p")


def test_a_rename_leaves_keys_and_pause_alone(alice: Api) -> None:
    account = make_account()
    account_pause(account.pk, "the venue refused the keys")

    answer = alice.patch(
        f"accounts/{account.pk}", {"name": "second", "status": "ACTIVE", "exchange": "other", "key_hint": "x"}
    )

    assert answer.status_code == 200
    assert (answer.json()["name"], answer.json()["status"], answer.json()["key_hint"]) == ("second", "PAUSED", "…lice")
    assert Account.objects.get().credentials.reveal() == account.credentials.reveal()


def test_half_a_set_of_keys_is_refused(alice: Api) -> None:
    account = make_account()

    answer = alice.patch(f"accounts/{account.pk}", {"api_key": "new"})

    assert answer.status_code == 400
    assert answer.json()["fields"] == {"secret": ["wanted with the other keys, was api_key alone"]}
    assert Account.objects.get().key_hint == "…lice"


def test_limits_are_read_with_the_account_and_changed_apart(alice: Api) -> None:
    account = make_account()

    changed = alice.patch(
        f"accounts/{account.pk}/risk-profile", {"max_exposure": "2500.50", "max_open_positions": None}
    )
    nested = alice.get(f"accounts/{account.pk}").json()["risk_profile"]

    assert changed.json() == {**NO_LIMITS, "max_exposure": "2500.5"}
    assert nested == alice.get(f"accounts/{account.pk}/risk-profile").json() == changed.json()


def test_a_preset_sets_every_limit_and_a_change_makes_it_custom(alice: Api) -> None:
    account = make_account()
    path = f"accounts/{account.pk}/risk-profile"

    chosen = alice.patch(path, {"preset": "AGGRESSIVE"}).json()
    beside = alice.patch(path, {"preset": "CONSERVATIVE", "max_leverage": "2"}).json()
    back = alice.patch(path, {"max_leverage": "1"}).json()
    later = alice.patch(path, {"max_drawdown_percent": None}).json()

    assert (chosen["preset"], chosen["max_open_positions"], chosen["max_leverage"]) == ("AGGRESSIVE", 12, "5")
    assert (beside["preset"], beside["max_open_positions"], beside["max_leverage"]) == ("CUSTOM", 3, "2")
    assert (back["preset"], back["max_drawdown_percent"]) == ("CONSERVATIVE", "10")
    assert (later["preset"], later["max_open_positions"], later["max_drawdown_percent"]) == ("CUSTOM", 3, None)


@pytest.mark.django_db
@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_is_a_profile_of_its_own_that_the_columns_take(preset: str) -> None:
    account = make_account()

    profile = risk_profile_change(account.pk, {"preset": preset})

    profile.full_clean()
    assert profile.preset == preset_of(preset_values(preset)) == preset


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "RECKLESS"}, 'preset: "RECKLESS" is not a valid choice.'),
        ({"var_confidence": 1.5}, "var_confidence: Ensure this value is less than or equal to 0.999."),
        ({"cooldown_losses": 0}, "cooldown_losses: Ensure this value is greater than or equal to 1."),
        ({"max_exposure": "-1"}, "max_exposure: Ensure this value is greater than or equal to 0."),
        ({"max_exposure": "much"}, "max_exposure: A valid number is required."),
        ({"max_exposure": "1e999999999"}, "max_exposure: Ensure that there are no more than 36 digits in total."),
        (
            {"max_exposure": "0.0000000000000000001"},
            "max_exposure: Ensure that there are no more than 18 decimal places.",
        ),
        ({"max_open_positions": -1}, "max_open_positions: Ensure this value is greater than or equal to 0."),
        ({"max_open_positions": 10**30}, "max_open_positions: Ensure this value is less than or equal to 2147483647."),
        ({"max_open_positions": 1.5}, "max_open_positions: A valid integer is required."),
    ],
)
def test_a_bad_limit_is_refused(alice: Api, values: dict[str, Any], message: str) -> None:
    account = make_account()

    answer = alice.patch(f"accounts/{account.pk}/risk-profile", values)

    assert (answer.status_code, answer.json()["detail"]) == (400, message)
    assert RiskProfile.objects.get().max_exposure is None


def test_refresh_reads_the_balances_from_the_venue(venue: Venue, alice: Api) -> None:
    account = venue.account
    account.balances.all().delete()

    answer = alice.post(f"accounts/{account.pk}/refresh")

    [balance] = answer.json()["balances"]
    assert answer.status_code == 200
    assert (balance["currency"], balance["total"], balance["free"]) == ("USDT", "10000", "10000")


def test_balances_that_cannot_be_read_are_a_503_and_stay_as_they_were(
    alice: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    account = make_account()
    make_balance(account, "12.50")

    answer = alice.post(f"accounts/{account.pk}/refresh")

    assert (answer.status_code, answer.json()["code"]) == (503, "exchange_unavailable")
    assert alice.get(f"accounts/{account.pk}").json()["balances"][0]["total"] == "12.5"
    assert "canary" not in answer.content.decode() + caplog.text


def test_keys_of_a_lost_encryption_key_are_a_503_that_says_so(alice: Api, settings: Any) -> None:
    account = make_account()
    settings.ENCRYPTION_KEYS = ("Zm9yIHRlc3RzIG9ubHksIG5vdCBhIHJlYWwga2V5ISE=",)

    answer = alice.post(f"accounts/{account.pk}/refresh")

    assert answer.status_code == 503
    assert answer.json() == {
        "code": "unable_to_decrypt", "detail": "no key in R3EDGE_ENCRYPTION_KEYS opens these credentials",
    }  # fmt: skip


def test_a_candles_request_names_the_feed_and_how_many(alice: Api) -> None:
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    feed = make_feed()
    make_candles(feed, [1.5, 2.5, 3.5], noon)

    answer = alice.get("candles", feed=feed.pk, limit=2).json()

    assert answer["feed"] == feed.pk
    assert [(row["open_at"], row["close"]) for row in answer["results"]] == [
        ((noon - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ"), "2.5"),
        (noon.strftime("%Y-%m-%dT%H:%M:%SZ"), "3.5"),
    ]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "feed: wanted the id of a feed, or exchange, symbol and timeframe, was neither"),
        ({"feed": "BTC"}, "feed: Incorrect type. Expected pk value, received str."),
        ({"feed": 10**30}, f'feed: Invalid pk "{10**30}" - object does not exist.'),
        ({"feed": 1, "limit": 0}, "limit: Ensure this value is greater than or equal to 1."),
        ({"feed": 1, "limit": 1501}, "limit: Ensure this value is less than or equal to 1500."),
        ({"feed": 1, "limit": "all"}, "limit: A valid integer is required."),
    ],
)
def test_a_bad_candles_request_is_refused(alice: Api, query: dict[str, Any], message: str) -> None:
    answer = alice.get("candles", **query)

    assert answer.status_code == 400
    assert message in answer.json()["detail"]


def test_feeds_are_found_by_market_timeframe_and_need(alice: Api) -> None:
    minute, hour = make_feed(is_needed=True), make_feed(timeframe=Timeframe.H1)

    found = (
        alice.ids("feeds"),
        alice.ids("feeds", timeframe="1h"),
        alice.ids("feeds", is_needed="true", symbol="BTC/USDT"),
    )

    assert found == ([hour.pk, minute.pk], [hour.pk], [minute.pk])

"""Strategy configurations through the form: fields made of the strategy's own parameters, judged by the strategy."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

import pytest
from django import forms
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from pydantic import BaseModel, Field

from marketdata.models import Feed
from strategies.forms import ConfigForm, parameter_field, parameters_offered
from strategies.library import LIBRARY
from strategies.models import StrategyConfig
from tests.admin.conftest import errors_of, told, url_of, words_of
from tests.factories import make_config, make_exchange, make_market


def filled_in(**changes: Any) -> dict[str, Any]:
    """The form as a browser sends it: the chosen strategy's fields and the hidden ones of the others."""
    form: dict[str, Any] = {"name": "trend", "market": make_market().pk, "timeframe": "1h", "strategy": "sma_cross"}
    for strategy, parameter in parameters_offered():
        default = LIBRARY[strategy].parameters_type.model_fields[parameter].default
        form[f"{strategy}__{parameter}"] = "" if default is None else default
    return {**form, **changes}


def test_a_trader_makes_a_configuration_for_a_market_and_timeframe(desk: Client, alice: User) -> None:
    response = desk.post(
        url_of(StrategyConfig, "add"), filled_in(sma_cross__fast="7", sma_cross__stop_loss_percent="1.5")
    )

    config = StrategyConfig.objects.get()
    assert response.status_code == 302
    assert (config.owner, config.name, config.strategy, str(config.feed)) == (
        alice, "trend", "sma_cross", "simulator-BTC/USDT-1h",
    )  # fmt: skip
    assert config.parameters == {"fast": 7, "slow": 50, "stop_loss_percent": "1.5", "take_profit_percent": "4"}
    assert config.build().parameters.stop_loss_percent == Decimal("1.5")


def test_two_configurations_of_a_market_and_timeframe_share_its_feed(desk: Client) -> None:
    desk.post(url_of(StrategyConfig, "add"), filled_in())
    desk.post(url_of(StrategyConfig, "add"), filled_in(name="reversion", strategy="rsi_reversion"))

    assert Feed.objects.count() == 1
    assert set(StrategyConfig.objects.values_list("name", "strategy")) == {
        ("trend", "sma_cross"), ("reversion", "rsi_reversion"),
    }  # fmt: skip


def test_an_empty_stop_loss_is_none_and_an_empty_average_its_default(desk: Client) -> None:
    desk.post(url_of(StrategyConfig, "add"), filled_in(sma_cross__stop_loss_percent="", sma_cross__fast=""))

    config = StrategyConfig.objects.get()
    assert config.parameters == {"fast": 20, "slow": 50, "stop_loss_percent": None, "take_profit_percent": "4"}


def test_a_configuration_says_what_it_looks_at(desk: Client) -> None:
    desk.post(url_of(StrategyConfig, "add"), filled_in(strategy="trend_filter", trend_filter__trend_timeframe="4h"))

    config = StrategyConfig.objects.get()
    assert [str(feed) for feed in config.informative_feeds.all()] == ["simulator-BTC/USDT-4h"]
    assert "simulator-BTC/USDT-4h" in words_of(desk.get(url_of(StrategyConfig, "change", config.pk)))


def test_new_parameters_change_what_a_configuration_looks_at(desk: Client) -> None:
    desk.post(url_of(StrategyConfig, "add"), filled_in(strategy="trend_filter"))
    config = StrategyConfig.objects.get()

    desk.post(
        url_of(StrategyConfig, "change", config.pk),
        filled_in(strategy="trend_filter", trend_filter__trend_timeframe="8h"),
    )

    assert [str(feed) for feed in config.informative_feeds.all()] == ["simulator-BTC/USDT-8h"]


def test_a_market_to_look_at_that_there_is_not_is_refused(desk: Client) -> None:
    response = desk.post(
        url_of(StrategyConfig, "add"), filled_in(strategy="trend_filter", trend_filter__trend_symbol="MARS/USDT")
    )

    assert errors_of(response) == {"__all__": ["wanted a market of simulator to look at, was 'MARS/USDT'"]}
    assert not StrategyConfig.objects.exists()


def test_fields_of_strategies_not_chosen_are_not_looked_at(desk: Client) -> None:
    response = desk.post(url_of(StrategyConfig, "add"), filled_in(rsi_reversion__period="1"))

    assert response.status_code == 302
    assert StrategyConfig.objects.get().strategy == "sma_cross"


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"sma_cross__fast": "1"}, "sma_cross__fast", "Input should be greater than or equal to 2, was 1"),
        ({"sma_cross__slow": "501"}, "sma_cross__slow", "Input should be less than or equal to 500, was 501"),
        ({"sma_cross__fast": "two"}, "sma_cross__fast", "Enter a whole number."),
        ({"sma_cross__fast": "50"}, "__all__", "wanted fast below slow, was fast=50 and slow=50"),
        (
            {"sma_cross__stop_loss_percent": "100"},
            "sma_cross__stop_loss_percent",
            "Input should be less than 100, was 100",
        ),
        ({"sma_cross__take_profit_percent": "NaN"}, "sma_cross__take_profit_percent", "Enter a number."),
        (
            {"strategy": "astrology"},
            "strategy",
            "Select a valid choice. astrology is not one of the available choices.",
        ),
        ({"timeframe": "7m"}, "timeframe", "Select a valid choice. 7m is not one of the available choices."),
        ({"market": "999"}, "market", "Select a valid choice. That choice is not one of the available choices."),
        ({"name": ""}, "name", "This field is required."),
        (
            {"strategy": "rsi_reversion", "rsi_reversion__oversold": "60"},
            "__all__",
            "wanted oversold below recovered, was oversold=60.0 and recovered=55.0",
        ),
    ],
)
def test_what_is_wrong_with_a_configuration_is_said_at_its_field(
    desk: Client, changes: dict[str, str], field: str, message: str
) -> None:
    response = desk.post(url_of(StrategyConfig, "add"), filled_in(**changes))

    assert response.status_code == 200
    assert errors_of(response) == {field: [message]}
    assert message.split(",")[0] in words_of(response)
    assert not StrategyConfig.objects.exists()


def test_a_market_that_is_no_longer_traded_is_neither_offered_nor_taken(desk: Client) -> None:
    gone = make_market(symbol="OLD/USDT", is_active=False)
    make_market(symbol="NEW/USDT")
    asked = {"app_label": "marketdata", "model_name": "feed", "field_name": "market", "term": "USDT"}

    offered = desk.get(reverse("admin:autocomplete"), asked).json()["results"]
    response = desk.post(url_of(StrategyConfig, "add"), filled_in(market=gone.pk))

    assert [one["text"] for one in offered] == ["NEW/USDT at simulator"]
    assert set(errors_of(response)) == {"market"}


def test_a_market_of_a_disabled_exchange_is_not_taken(desk: Client) -> None:
    market = make_market(make_exchange("closed", is_enabled=False))

    response = desk.post(url_of(StrategyConfig, "add"), filled_in(market=market.pk))

    assert set(errors_of(response)) == {"market"}


def test_a_name_is_used_once_per_trader(desk: Client, alice: User, bob: User) -> None:
    make_config(bob, name="trend")
    make_config(alice, name="taken")

    first = desk.post(url_of(StrategyConfig, "add"), filled_in())
    again = desk.post(url_of(StrategyConfig, "add"), filled_in(name="taken"))

    assert first.status_code == 302
    assert errors_of(again) == {"name": ["wanted a name that none of your other configurations has, was 'taken'"]}


def test_parameters_are_changed_while_no_session_uses_them(desk: Client, alice: User) -> None:
    config = make_config(alice, parameters={"fast": 5, "slow": 10, "take_profit_percent": None})

    page = desk.get(url_of(StrategyConfig, "change", config.pk))
    form = page.context["adminform"].form
    desk.post(
        url_of(StrategyConfig, "change", config.pk),
        {"name": "renamed", "sma_cross__fast": "6", "sma_cross__slow": "10", "sma_cross__stop_loss_percent": "2"},
    )

    config.refresh_from_db()
    assert (form["sma_cross__fast"].value(), form["sma_cross__take_profit_percent"].value()) == (5, None)
    assert config.name == "renamed"
    assert config.parameters == {"fast": 6, "slow": 10, "stop_loss_percent": "2", "take_profit_percent": None}


def test_parameters_in_use_are_kept_and_said_to_be(desk: Client, alice: User) -> None:
    config = make_config(alice, is_needed=True)

    response = desk.post(
        url_of(StrategyConfig, "change", config.pk),
        {"name": "renamed", "sma_cross__fast": "9", "sma_cross__slow": "10", "sma_cross__stop_loss_percent": "2"},
    )

    config.refresh_from_db()
    assert (config.name, config.parameters) == ("renamed", {"fast": 2, "slow": 3})
    assert told(response)[0] == (
        "Parameters were kept: wanted a configuration that no active session uses, was in use. "
        "Suspend or stop its sessions first."
    )


def test_a_configuration_whose_strategy_has_left_the_library_can_still_be_looked_at(desk: Client, alice: User) -> None:
    config = make_config(alice, strategy="retired")

    page = desk.get(url_of(StrategyConfig, "change", config.pk))
    response = desk.post(url_of(StrategyConfig, "change", config.pk), {"name": "renamed"})

    assert page.status_code == 200
    assert errors_of(response) == {"__all__": ["wanted a strategy that there is, was 'retired'"]}
    assert "wanted a strategy that there is" in words_of(page)


@pytest.mark.django_db
def test_every_parameter_of_every_strategy_has_a_field_that_tells_its_bounds() -> None:
    form = ConfigForm()

    offered = parameters_offered()
    assert {strategy for strategy, _ in offered} == set(LIBRARY)
    assert all(form.fields[f"{strategy}__{parameter}"].help_text for strategy, parameter in offered)
    assert form.fields["sma_cross__fast"].help_text == "Candles in the short average. At least 2, at most 200."
    assert form.fields["sma_cross__stop_loss_percent"].help_text == (
        "Leave when the price is this far against us. More than 0, less than 100. Empty: none."
    )


class Mood(StrEnum):
    CALM = "CALM"
    WILD = "WILD"


class Everything(BaseModel):
    """One parameter of each kind that a strategy may declare."""

    whole: int = Field(default=1, title="Whole")
    ratio: float = 0.5
    amount: Decimal = Decimal("1.50")
    is_on: bool = True
    mood: Mood = Mood.CALM
    side: Literal["LONG", "SHORT"] = "LONG"
    word: str = "x"


@pytest.mark.parametrize(
    ("parameter", "kind", "initial"),
    [
        ("whole", forms.IntegerField, 1),
        ("ratio", forms.DecimalField, 0.5),
        ("amount", forms.DecimalField, "1.5"),
        ("is_on", forms.BooleanField, True),
        ("mood", forms.ChoiceField, "CALM"),
        ("side", forms.ChoiceField, "LONG"),
        ("word", forms.CharField, "x"),
    ],
)
def test_a_parameter_becomes_a_field_of_its_kind(parameter: str, kind: type[forms.Field], initial: Any) -> None:
    field = parameter_field(Everything.model_fields[parameter])

    assert type(field) is kind
    assert field.initial == initial

"""Parameters: refused by name when they make no strategy, defaults where they are left out."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from strategies.models import parameters_validated
from strategies.services import config_need
from tests.factories import (
    make_config,
)
from tests.race import elsewhere


@pytest.mark.parametrize(
    ("strategy", "parameters", "problem"),
    [
        ("nope", {}, "wanted a strategy that there is, was 'nope'"),
        ("sma_cross", [], "wanted an object of parameters, was list"),
        ("sma_cross", {"fast": 1}, "fast"),
        ("sma_cross", {"fast": 50, "slow": 20}, "wanted fast below slow, was fast=50 and slow=20"),
        ("sma_cross", {"fats": 5}, "fats"),
        ("sma_cross", {"stop_loss_percent": 0}, "stop_loss_percent"),
        ("sma_cross", {"take_profit_percent": "NaN"}, "take_profit_percent"),
        ("rsi_reversion", {"oversold": 60}, "wanted oversold below recovered"),
        ("rsi_reversion", {"period": "many"}, "period"),
    ],
)
def test_parameters_that_make_no_strategy_are_refused_by_name(strategy: str, parameters: Any, problem: str) -> None:
    with pytest.raises(ValidationError) as raised:
        parameters_validated(strategy, parameters)

    assert any(problem in message for message in raised.value.messages)


def test_parameters_left_out_take_their_defaults() -> None:
    assert parameters_validated("sma_cross", {}).parameters.model_dump() == {
        "stop_loss_percent": Decimal(2),
        "take_profit_percent": Decimal(4),
        "fast": 20,
        "slow": 50,
    }


@pytest.mark.django_db(transaction=True)
def test_a_need_that_was_told_twice_is_told_once() -> None:
    config = make_config()

    elsewhere(lambda: config_need(config.pk, True))
    config_need(config.pk, True)
    config.refresh_from_db()
    assert config.is_needed

    config_need(config.pk, False)
    config.refresh_from_db()
    assert not config.is_needed

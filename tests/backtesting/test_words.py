"""What a backtest is asked and told, without a database: words that cover the settings, hashes of code and data, columns as
bytes."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from decimal import Decimal
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from backtesting.engine.inputs import MarketInput, Settings
from backtesting.fingerprints import _modules, code_hash, data_hash
from backtesting.packing import packed, unpacked
from backtesting.words import BY_HISTORY, LimitsWords, SettingsWords, WrongWords, settings_from, settings_said, written
from domain.candles import Candles, Timeframe
from domain.informative import FundingRates
from domain.limits import Limits
from domain.sizing import SizingMethod
from strategies.library.donchian import Donchian
from strategies.library.sma_cross import SmaCross

CANDLES = Candles.from_rows([(index * 3_600_000, 1.0, 2.0, 0.5, 1.5, 10.0) for index in range(5)])
MARKET = MarketInput("BTC/USDT", CANDLES, Timeframe.H1, strategy=SmaCross.from_values({"fast": 2, "slow": 3}))


def test_every_setting_and_limit_of_the_engine_has_a_word_with_its_default() -> None:
    plain = {name: value for name, value in SettingsWords().model_dump().items() if not name.endswith("_fee")}

    assert {*SettingsWords.model_fields, "limits"} == {one.name for one in fields(Settings)}
    assert plain == {name: getattr(Settings(), name) for name in plain}
    assert {*LimitsWords.model_fields, *BY_HISTORY} == {one.name for one in fields(Limits)}


def test_what_is_written_down_means_the_same_when_it_is_read() -> None:
    said = settings_said({"cash": "2500.50", "sizing": "FIXED_QUOTE", "amount": 100, "taker_fee": "0.0010"})

    stored = written(said)

    assert (stored["cash"], stored["taker_fee"], stored["maker_fee"]) == ("2500.5", "0.001", None)
    assert settings_from(stored, {"max_exposure": "50"}) == Settings(
        cash=Decimal("2500.5"), sizing=SizingMethod.FIXED_QUOTE, amount=Decimal(100), taker_fee=Decimal("0.001"),
        limits=Limits(max_exposure=Decimal(50)),
    )  # fmt: skip


def test_a_wrong_word_is_named() -> None:
    with pytest.raises(WrongWords) as refused:
        settings_said({"cash": 0, "spread": "wide"})

    assert refused.value.problems == {
        "settings": [
            "cash: Input should be greater than 0, was 0",
            "spread: Input should be a valid decimal, was 'wide'",
        ]
    }


@pytest.mark.parametrize(
    "change",
    [
        {"symbol": "ETH/USDT"},
        {"candles": replace(CANDLES, close=CANDLES.close + 1e-9)},
        {"candles": CANDLES.upto(4)},
        {"detail": CANDLES},
        {"can_short": True},
        {"funding": FundingRates(np.array([0]), np.array([0.0001]))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_the_engine_is_shown_changes_the_hash_of_the_data(change: dict[str, Any]) -> None:
    assert data_hash([replace(MARKET, **change)]) != data_hash([MARKET])


def test_parameters_and_signals_are_no_data() -> None:
    other = replace(MARKET, strategy=SmaCross.from_values({"fast": 3, "slow": 4}), warm_up=4)

    assert data_hash([other]) == data_hash([MARKET])


def test_each_strategy_has_a_code_hash_of_its_own_that_stays() -> None:
    assert code_hash(SmaCross) == code_hash(SmaCross) != code_hash(Donchian)


def test_what_a_strategy_takes_from_beside_it_is_of_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, own = ModuleType("r3edge_strategies._shared"), ModuleType("r3edge_strategies.mine")
    own.shared, own.numpy = shared, np  # type: ignore[attr-defined]
    kind = type("Mine", (SmaCross,), {"__module__": own.__name__})
    for module in (shared, own):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    names = {module.__name__ for module in _modules(kind)}

    assert names >= {"r3edge_strategies.mine", "r3edge_strategies._shared", "strategies.library.sma_cross"}
    assert "numpy" not in names
    assert not any(name.startswith("domain.") for name in names)


def test_columns_come_back_as_they_were() -> None:
    at, values = np.array([1, 2**62], np.int64), np.array([0.1, np.pi])

    back = unpacked(packed(open_ms=at, file=values))

    np.testing.assert_array_equal(back["open_ms"], at)
    np.testing.assert_array_equal(back["file"], values)
    assert (back["open_ms"].dtype.name, back["file"].dtype.name) == ("int64", "float64")

"""Real candles through the command line: what is stored of them, what is missing and what is wrong is what is known of them.

The suite reads some files of each kind; with R3EDGE_LONG=1 all of them.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from domain.calendars import Calendar
from domain.candles import Candles, Timeframe
from marketdata.models import Candle, CandleGap, QuarantinedCandle
from tests.domain.reference import reference_json, reference_path

pytestmark = pytest.mark.django_db

IS_LONG = os.environ.get("R3EDGE_LONG") == "1"


@dataclass(frozen=True)
class Real:
    """A file, and what is known of it: ``bad`` are the rows that are not stored, ``gaps`` what its calendar misses. Those of
    a market that never closes are in ``expected/data_quality.json``."""

    name: str
    symbol: str = ""
    timeframe: str = ""
    calendar: str = "24/7"
    rows: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    gaps: dict[str, int] | int | None = None

    def __str__(self) -> str:
        return self.name


AROUND_THE_CLOCK = [
    "binance_spot_1h/BTC_USDT-1h", "binance_spot_4h/BTC_USDT-4h", "binance_spot_1d/ETH_USDT-1d",
    "freqtrade_5m/ADA_BTC-5m", "freqtrade_5m/TRX_BTC-5m", "kucoin_5m/XRP_USDT-5m",
]  # fmt: skip
ALL_AROUND_THE_CLOCK = [
    *(f"binance_spot_1h/{base}_USDT-1h" for base in ("ETH", "BNB", "LTC", "XRP", "ADA", "EOS", "TRX", "XLM", "ETC")),
    "binance_spot_1d/BTC_USDT-1d", "binance_spot_4h/ETH_USDT-4h", 
    *(f"kucoin_1m/{base}_USDT-1m" for base in ("BTC", "ETH", "XRP", "ADA")),
    *(f"kucoin_5m/{base}_USDT-5m" for base in ("BTC", "ETH", "ADA")),
    *(f"binance_usdm_5m/{base}_USDT_USDT-5m" for base in ("BTC", "ETH")),
    *(f"freqtrade_5m/{base}_BTC-5m" for base in ("ETH", "LTC", "UNITTEST")),
]  # fmt: skip

REAL = [
    *(Real(f"market/{name}.csv.gz") for name in AROUND_THE_CLOCK),
    Real(
        "fx/oanda_1h/EURUSD-1h.csv.gz", "EUR/USD", calendar="FX", rows=12411, gaps={"2015-08-20T19:00": 9},
    ),
    Real(
        "fx/backtesting_py/EURUSD.csv.gz", "EUR/USD", "1h", "FX", 4998, gaps={},
        bad={"2017-10-06T21:00": "OUT_OF_SESSION", "2017-10-20T21:00": "OUT_OF_SESSION"},
    ),
    Real("equity/lean_1d/SPY-1d.csv.gz", "SPY/USD", "1d", "XNYS", 3019, gaps={}),
    # A high of 20.98 at a price of 1.50.
    Real(
        "equity/lean_1d/AIG-1d.csv.gz", "AIG/USD", "1d", "XNYS", 5848, bad={"2009-05-05T00:00": "JUMP"},
        gaps={"2009-05-05T00:00": 1},
    ),
    Real("equity/backtesting_py/GOOG.csv.gz", "GOOG/USD", "1d", "XNAS", 2148, gaps={}),
]  # fmt: skip
THE_REST = [
    # A low of 0.03 at a price of 0.077.
    Real("market/binance_spot_15m/MANA_USDT-15m.csv.gz", bad={"2020-09-10T09:30": "JUMP"}),
    *(Real(f"market/{name}.csv.gz") for name in ALL_AROUND_THE_CLOCK),
    *(
        Real(f"fx/fxcm_1m/gbpusd-m1-{side}-2012.csv.gz", "GBP/USD", "1m", "FX", 30117, gaps=124)
        for side in ("bid", "ask")
    ),
    Real("equity/lean_1d/BAC-1d.csv.gz", "BAC/USD", "1d", "XNYS", 5849, gaps={}),
]


def checked(exchange: str, symbol: str, timeframe: str) -> dict[str, Any]:
    """What ``check`` says of a feed, and that its exit code says the same."""
    out, code = io.StringIO(), 0
    names = ("--exchange", exchange, "--symbol", symbol, "--timeframe", timeframe)
    try:
        call_command("candles", "check", *names, "--json", stdout=out)
    except CommandError as error:
        code = error.returncode
    [report] = json.loads(out.getvalue())
    assert code == (not report["is_clean"])
    return dict(report)


def as_utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize("real", [*REAL, *(THE_REST if IS_LONG else [])], ids=str)
def test_real_candles_are_imported_and_checked_with_the_expected_findings(real: Real) -> None:
    path = reference_path(real.name)
    exchange = real.name.split("/")[1]
    given = [
        *(["--symbol", real.symbol] if real.symbol else []),
        *(["--timeframe", real.timeframe] if real.timeframe else []),
    ]

    call_command(
        "candles", "import", str(path), "--exchange", exchange, *given, "--make", "--calendar", real.calendar,
        stdout=io.StringIO(), stderr=io.StringIO(),
    )  # fmt: skip

    known = reference_json("expected/data_quality.json").get(real.name, {})
    stem = path.name.split(".")[0]
    symbol = real.symbol or stem.split("-")[0].replace("_", "/", 1).replace("_", ":")
    report = checked(exchange, symbol, real.timeframe or known["timeframe"])
    bad = {f"{row.open_at:%Y-%m-%dT%H:%M}": row.flaw for row in QuarantinedCandle.objects.all()}
    assert bad == real.bad
    assert report["rows"] == (real.rows or known["rows"] - len(real.bad))
    if known:
        assert [report["first_at"], report["last_at"]] == [f"{known[name]}+00:00" for name in ("first", "last")]
    assert report["flaws"] == {}
    gaps = {as_utc(gap["from_at"][:19]): gap["missing"] for gap in report["gaps"]}
    if real.gaps is None:
        length = Timeframe(known["timeframe"]).length
        wanted = {as_utc(gap["after"]) + length: gap["missing"] for gap in known.get("gaps", [])}
        assert (len(wanted), sum(wanted.values())) == (known["n_gaps"], known["missing"])
        assert gaps == wanted | {as_utc(at): 1 for at in real.bad}
    elif isinstance(real.gaps, int):
        assert report["missing"] == real.gaps
    else:
        assert gaps == {as_utc(at): missing for at, missing in real.gaps.items()}
    assert sorted(CandleGap.objects.values_list("from_at", "missing")) == sorted(gaps.items())


def stored(symbol: str, timeframe: Timeframe) -> Candles:
    names = ("open_at", "open", "high", "low", "close", "volume")
    rows = Candle.objects.filter(feed__market__symbol=symbol, feed__timeframe=timeframe).order_by("open_at")
    return Candles.from_rows((at.timestamp() * 1000, *map(float, numbers)) for at, *numbers in rows.values_list(*names))


@pytest.mark.parametrize("coin", ["XRP", *(["ADA", "BTC", "ETH"] if IS_LONG else [])])
def test_minutes_that_were_imported_make_the_five_minutes_that_were_recorded(coin: str) -> None:
    resample = pytest.importorskip("domain.resampling").resample
    for timeframe in ("1m", "5m"):
        path = reference_path(f"market/kucoin_{timeframe}/{coin}_USDT-{timeframe}.csv.gz")
        call_command(
            "candles", "import", str(path), "--exchange", "kucoin", "--make", stdout=io.StringIO(), stderr=io.StringIO()
        )

    made = resample(stored(f"{coin}/USDT", Timeframe.M1), Timeframe.M1, Timeframe.M5, Calendar.ALWAYS)

    recorded = stored(f"{coin}/USDT", Timeframe.M5)
    common, ours, theirs = np.intersect1d(made.open_ms, recorded.open_ms, return_indices=True)
    [known] = [
        row for row in reference_json("expected/resample_consistency.json")
        if row["check"] == f"open kucoin 1m->5m {coin}_USDT"
    ]  # fmt: skip
    assert len(common) == known["bars_compared"]
    for name in ("open", "high", "low", "close"):
        differing = np.abs(getattr(made, name)[ours] / getattr(recorded, name)[theirs] - 1) > 1e-9
        assert int(differing.sum()) == known[f"mismatch_{name}"]


def test_every_real_file_is_known_here() -> None:
    known = {name for name in reference_json("expected/data_quality.json") if not name.startswith("trades/")}
    root = reference_path("MANIFEST.md").parent
    there = {
        str(path.relative_to(root)) for kind in ("market", "fx", "equity") for path in (root / kind).glob("*/*.csv.gz")
    }

    assert {real.name for real in (*REAL, *THE_REST)} == known | there

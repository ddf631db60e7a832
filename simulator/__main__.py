"""``python -m simulator``: a KuCoin-compatible exchange on one port, for tests, demos and benchmarks."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import hashlib
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn

from aiohttp import web

from simulator.accounts import account_set
from simulator.app import Server
from simulator.clock import MarketClock, wall_ms
from simulator.exchange import Exchange
from simulator.manual import EPILOG
from simulator.market import Market
from simulator.prices import MINUTE_MS
from simulator.replays import Replay, decimals_of, read_candles
from simulator.rules import SYMBOL_PATTERN
from simulator.settings import DuplicatePolicy, Settings
from simulator.state import StateFile, StateUnusable

MATCH_EVERY_S = 0.05
HISTORY_BEFORE_REPLAY_MINUTES = 1_440
DEMO_ACCOUNT = {**dict.fromkeys(("apiKey", "secret", "passphrase"), "demo"), "balances": {"USDT": "10000"}}

log = logging.getLogger("simulator")


class BadOption(Exception):
    """An option that cannot be used, in one line."""


@dataclass(frozen=True, slots=True)
class Options:
    host: str
    port: int
    speed: float
    seed: int
    symbols: tuple[str, ...]
    start_ms: int | None
    candles: dict[str, Path]
    fees: tuple[Decimal, Decimal]  # maker, taker
    slippage: Decimal
    volatility: float
    duplicates: DuplicatePolicy
    accounts: Path | None
    control_token: str | None
    state: Path | None = None
    has_demo_account: bool = False


class OneLineParser(argparse.ArgumentParser):
    """Says in one line what is wrong, without repeating the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"simulator: {message} (see --help)\n")


def parser() -> argparse.ArgumentParser:
    made = OneLineParser(
        prog="python -m simulator",
        description="A KuCoin-compatible spot and futures exchange with synthetic or replayed prices.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    made.add_argument("--port", default="8090", help="port to listen on (8090); 0 takes a free one and prints it")
    made.add_argument("--speed", default="1", help="market seconds per real second (1); 0 stands still until stepped")
    made.add_argument("--seed", default="7", help="seed of the synthetic prices (7)")
    made.add_argument("--symbols", default="BTC-USDT,ETH-USDT", help="listed symbols (BTC-USDT,ETH-USDT)")
    made.add_argument("--start", help="where the market clock starts, ISO 8601, UTC if it does not say "
                      "(now; with --candles a day after their beginning)")  # fmt: skip
    made.add_argument("--candles", action="append", default=[], metavar="SYMBOL=FILE",
                      help="replay one-minute candles from FILE.csv or FILE.csv.gz with columns ts (ms), open, high, low, "
                      "close, volume; may be given once per symbol")  # fmt: skip
    made.add_argument("--taker-fee", default="0.001", help="fee rate of orders that take (0.001)")
    made.add_argument("--maker-fee", default="0.001", help="fee rate of orders that rest (0.001)")
    made.add_argument("--slippage", default="0.00005", help="half the spread, as a fraction of the price (0.00005)")
    made.add_argument("--volatility", default="0.001", help="standard deviation of a minute's return (0.001)")
    made.add_argument("--duplicates", default="active", help="client order id policy: active, always or never (active)")
    made.add_argument("--accounts", metavar="FILE", help="JSON list of accounts to open, as for POST /_sim/accounts")
    made.add_argument("--demo-account", action="store_true", help="open an account of 10000 USDT whose key, secret and "
                      "passphrase are the word demo")  # fmt: skip
    made.add_argument("--state", metavar="FILE", help="keep everything in FILE and go on from it when started again")
    made.add_argument("--control-token-env", metavar="NAME", help="environment variable that holds a token for /_sim")
    return made


def read_options(arguments: list[str]) -> Options:
    """The checked options; BadOption says which one was wrong and what was wanted."""
    given = parser().parse_args(arguments)
    symbols = tuple(dict.fromkeys(filter(None, given.symbols.split(","))))
    candles = dict(_candle_file(value) for value in given.candles)
    for symbol in (*symbols, *candles):
        if not SYMBOL_PATTERN.fullmatch(symbol):
            raise BadOption(f"--symbols: wanted symbols such as BTC-USDT,ETH-USDT, was {symbol!r}")
    if not symbols:
        raise BadOption("--symbols: wanted at least one symbol, was none")
    if given.duplicates not in list(DuplicatePolicy):
        raise BadOption(f"--duplicates: wanted active, always or never, was {given.duplicates!r}")
    return Options(
        host=given.host,
        port=_whole("--port", given.port, 0, 65_535),
        speed=float(_decimal("--speed", given.speed, Decimal(0), Decimal(100_000))),
        seed=_whole("--seed", given.seed, 0, 1 << 62),
        symbols=tuple(dict.fromkeys((*symbols, *candles))),
        start_ms=None if given.start is None else _start_ms(given.start),
        candles=candles,
        fees=(
            _decimal("--maker-fee", given.maker_fee, Decimal(0), Decimal("0.5")),
            _decimal("--taker-fee", given.taker_fee, Decimal(0), Decimal("0.5")),
        ),
        slippage=_decimal("--slippage", given.slippage, Decimal(0), Decimal("0.005")),
        volatility=float(_decimal("--volatility", given.volatility, Decimal(0), Decimal("0.1"))),
        duplicates=DuplicatePolicy(given.duplicates),
        accounts=None if given.accounts is None else Path(given.accounts),
        control_token=_control_token(given.control_token_env),
        state=None if given.state is None else Path(given.state),
        has_demo_account=given.demo_account,
    )


def build(options: Options) -> Exchange:
    """The exchange that ``options`` ask for; with a state file, as it was left."""
    replays = {symbol: _replay(symbol, file) for symbol, file in options.candles.items()}
    state = None if options.state is None else StateFile(options.state)
    start_ms = options.start_ms
    if state is not None and state.start_ms is not None:
        start_ms = state.start_ms
    elif start_ms is None:
        start_ms = _start_of(replays) if replays else wall_ms()
    market = Market(
        seed=options.seed,
        start_ms=start_ms,
        sigma=options.volatility,
        slippage=options.slippage,
        fees=options.fees,
    )
    for symbol in options.symbols:
        if symbol in replays:
            replay, tick = replays[symbol]
            market.add(symbol, replay, tick)
        else:
            market.add(symbol)
    exchange = Exchange(market, MarketClock(start_ms, options.speed), Settings(duplicates=options.duplicates))
    is_new = state is None or state.start_ms is None
    if state is not None:
        state.attach(exchange, start_ms, _made_of(options))
        log.info("%s state in %s", "new" if is_new else "going on from the", state.path)
    if options.accounts is not None and is_new:
        _open_accounts(exchange, options.accounts)
    if options.has_demo_account and "demo" not in exchange.books.accounts:
        account_set(exchange, DEMO_ACCOUNT)
    exchange.end_step()
    return exchange


def _made_of(options: Options) -> dict[str, Any]:
    """The options that a state file only makes sense with."""
    return {
        "--seed": str(options.seed),
        "--volatility": str(options.volatility),
        "--slippage": str(options.slippage),
        "--maker-fee": str(options.fees[0]),
        "--taker-fee": str(options.fees[1]),
        "--symbols": ",".join(options.symbols),
        "--candles": {
            symbol: hashlib.sha256(file.read_bytes()).hexdigest() for symbol, file in options.candles.items()
        },
    }


async def serve(options: Options, exchange: Exchange) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(Server(exchange, options.control_token).app, access_log=None, shutdown_timeout=0.3)
    await runner.setup()
    site = web.TCPSite(runner, options.host, options.port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise BadOption(f"--port: wanted a free port, was {options.port} ({os.strerror(error.errno)})") from None
        raise BadOption(f"--host: wanted an address of this machine, was {options.host!r} ({error.strerror})") from None
    host, port = runner.addresses[0][:2]
    log.info("listening on http://%s:%s, symbols %s", host, port, ",".join(exchange.market.listings))
    print(f"http://{host}:{port}", flush=True)
    try:
        await _match_until(stop, exchange)
    finally:
        await runner.cleanup()
        log.info("stopped")


async def _match_until(stop: asyncio.Event, exchange: Exchange) -> None:
    """Fill resting orders while nobody asks."""
    while not stop.is_set():
        exchange.advance()
        exchange.end_step()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), MATCH_EVERY_S)


def main(arguments: list[str] | None = None) -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        options = read_options(sys.argv[1:] if arguments is None else arguments)
        exchange = build(options)
        asyncio.run(serve(options, exchange))
    except (BadOption, StateUnusable) as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 2
    return 0


def _whole(name: str, value: str, least: int, most: int) -> int:
    if not value.isascii() or not value.isdigit() or not least <= int(value) <= most:
        raise BadOption(f"{name}: wanted a whole number from {least} to {most}, was {value!r}")
    return int(value)


def _decimal(name: str, value: str, least: Decimal, most: Decimal) -> Decimal:
    try:
        number = Decimal(value)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or not least <= number <= most:
        raise BadOption(f"{name}: wanted a number from {least} to {most}, was {value!r}")
    return number


def _start_ms(value: str) -> int:
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        raise BadOption(f"--start: wanted a time such as 2024-05-01T00:00:00, was {value!r}") from None
    start = at if at.tzinfo else at.replace(tzinfo=UTC)
    if not 2000 <= start.year <= 2200:
        raise BadOption(f"--start: wanted a time between 2000 and 2200, was {value!r}")
    return int(start.timestamp() * 1000)


def _candle_file(value: str) -> tuple[str, Path]:
    symbol, equals, file = value.partition("=")
    if not equals or not file:
        raise BadOption(f"--candles: wanted SYMBOL=FILE, was {value!r}")
    return symbol, Path(file)


def _replay(symbol: str, file: Path) -> tuple[Replay, Decimal]:
    try:
        rows = read_candles(file)
        tick = Decimal(1).scaleb(-min(decimals_of(rows), 10)) if rows else Decimal(1)
        return Replay(rows, tick), tick
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise BadOption(f"--candles: cannot replay {symbol} from {file}: {reason}") from None


def _start_of(replays: dict[str, tuple[Replay, Decimal]]) -> int:
    """A day after the candles begin, so that there is a history; earlier where they are shorter than that."""
    minutes = [
        min(replay.first_minute + HISTORY_BEFORE_REPLAY_MINUTES, replay.stop_minute) for replay, _ in replays.values()
    ]
    return max(minutes) * MINUTE_MS


def _control_token(name: str | None) -> str | None:
    if name is None:
        return None
    token = os.environ.get(name)
    if not token:
        raise BadOption(f"--control-token-env: wanted a token in the environment variable {name}, was nothing")
    return token


def _open_accounts(exchange: Exchange, file: Path) -> None:
    try:
        accounts = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(accounts, list) or not all(isinstance(account, dict) for account in accounts):
            raise ValueError("wanted a list of objects")
        for account in accounts:
            account_set(exchange, account)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadOption(f"--accounts: cannot read accounts from {file}: {reason}") from None


if __name__ == "__main__":
    sys.exit(main())

"""What the demo shows: a live table on a terminal, plain lines anywhere else. It only looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

if TYPE_CHECKING:
    from embedded.demo import Denied, Life

STATUS_STYLES = {
    "OPEN": "bold green",
    "ACTIVE": "bold green",
    "CLOSED": "green",
    "DENIED": "yellow",
    "REJECTED": "red",
    "UNKNOWN": "red",
}


class Screen(Protocol):
    def step(self, text: str) -> None: ...
    def show(self, life: Life) -> None: ...
    def done(self, life: Life, exchange_orders: int) -> None: ...
    def fail(self, reason: str) -> None: ...


@contextmanager
def screen_for(*, is_json: bool) -> Iterator[Screen]:
    """A screen for where the output goes: standard output is left to the JSON object when one is wanted."""
    console = Console(file=sys.stderr if is_json else sys.stdout, highlight=False)
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        yield Picture(live)


class Lines:
    """One line for each thing that is new."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[str] = set()

    def step(self, text: str) -> None:
        self._tell(f"demo: {text}")

    def show(self, life: Life) -> None:
        for number, state in enumerate(life.states):
            self._once(f"state{number}", f"session {life.session['name']} is {state}")
        if life.candles:
            self._once("candles", f"{life.candles} closed candles collected")
        for signal in life.signals:
            self._once(f"signal{signal['id']}", f"signal {signal['kind']} at {_price(signal['price'])}")
        for order in life.orders:
            key = f"order{order['id']}{order['status']}{order['execution']}"
            self._once(key, f"order {order['client_order_id'][:11]}… {_order_text(order)}")
        for one in life.exits:
            self._once(f"exit{one.order['id']}{one.order['filled']}", f"exit {one.text}")
        if life.denied is not None:
            self._once("denied", f"order by hand {_denied_text(life.denied)}")
            self._once("why", f"why: {life.denied.why}")
        for position in life.positions:
            self._once(f"position{position['id']}{position['status']}", f"position {_position_text(position)}")
            if position["valuations"]:
                value = _money(position["unrealized_pnl"])
                self._once(f"tick{position['id']}", f"a tick valued position {position['id']}: {value} USDT")

    def done(self, life: Life, exchange_orders: int) -> None:
        self._tell(f"latency, median ms: {_hops_text(life.hops)}")
        self._tell(_verdict(life, exchange_orders))

    def fail(self, reason: str) -> None:
        self._tell(f"demo failed: {reason}")

    def _once(self, key: str, text: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self._tell(text)

    def _tell(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


class Picture:
    """The session, its orders and positions, and the latency of each hop, redrawn in place."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._steps: list[str] = []
        self._life: Life | None = None

    def step(self, text: str) -> None:
        self._steps.append(text)
        self._draw()

    def show(self, life: Life) -> None:
        self._life = life
        self._draw()

    def done(self, life: Life, exchange_orders: int) -> None:
        self._steps.append(f"[bold green]{_verdict(life, exchange_orders)}[/]")
        self.show(life)

    def fail(self, reason: str) -> None:
        self._steps.append(f"[bold red]demo failed:[/] {reason}")
        self._draw()

    def _draw(self) -> None:
        parts: list[Any] = [f"[dim]●[/] {step}" for step in self._steps]
        if self._life is not None:
            drawn = (_session_panel, _orders_table, _positions_table, _hops_table)
            parts = [*(draw(self._life) for draw in drawn), *_exit_lines(self._life), *parts]
        self._live.update(Group(*parts))


def _session_panel(life: Life) -> Panel:
    way = " → ".join(f"[{STATUS_STYLES.get(state, 'bold')}]{state}[/]" for state in life.states)
    last = f"{life.signals[-1]['kind']} at {_price(life.signals[-1]['price'])}" if life.signals else "none yet"
    facts = (
        f"{life.candles} candles   {len(life.signals)} signals, last {last}   realized {_money(life.realized_pnl)} USDT"
    )
    return Panel(f"{way}\n{facts}", title=f"[bold]{life.session['name']}[/]", border_style="cyan")


def _orders_table(life: Life) -> Table:
    table = Table(
        "order", "side", "why", "quantity", "average price", "status", "execution", title="orders", expand=True
    )
    for order in life.orders[-8:]:
        style = STATUS_STYLES.get(order["status"], "")
        table.add_row(
            f"{order['client_order_id'][:11]}…", order["side"], order["reason"], order["quantity"] or "",
            _price(order["average_price"]), f"[{style or 'none'}]{order['status']}[/]", order["execution"],
        )  # fmt: skip
    return table


def _positions_table(life: Life) -> Table:
    columns = ("position", "held", "entry", "stop", "target", "mark", "unrealized", "realized", "ticks", "left by")
    table = Table(*columns, title="positions", expand=True)
    for position in life.positions[-6:]:
        style = STATUS_STYLES.get(position["status"], "")
        table.add_row(
            f"[{style or 'none'}]{position['side']} {position['status']}[/]", position["quantity"],
            _price(position["entry_price"]), _price(position["stop_price"]), _price(position["target_price"]),
            _price(position["mark_price"]), _money(position["unrealized_pnl"]), _money(position["realized_pnl"]),
            str(position["valuations"]), position["exit_reason"],
        )  # fmt: skip
    return table


def _exit_lines(life: Life) -> list[str]:
    """The newest exits, and the order that was denied."""
    lines = [f"[cyan]exit[/] {one.text}" for one in life.exits[-5:]]
    if life.denied is not None:
        lines.append(f"[yellow]denied[/] {_denied_text(life.denied)}")
        lines.append(f"[dim]why[/] {life.denied.why}")
    return lines


def _denied_text(denied: Denied) -> str:
    order = denied.order
    wish = f"{order['side']} {order['quantity']} at {_price(order['price'])}"
    return f"{wish} DENIED ({order['reason']}): {' '.join(denied.sentences)}"


def _hops_table(life: Life) -> Table:
    hops = life.hops.get("p50_ms") or {}
    table = Table(*(name.replace("_", " ") for name in hops), title="latency of each hop, median ms", expand=True)
    if hops:
        table.add_row(*("–" if value is None else f"{value:.1f}" for value in hops.values()))
    return table


def _hops_text(hops: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in (hops.get("p50_ms") or {}).items() if value is not None)


def _order_text(order: dict[str, Any]) -> str:
    price = f" at {_price(order['average_price'])}" if order["average_price"] else ""
    return (
        f"{order['side']} {order['quantity'] or '?'} ({order['reason']}) {order['status']}, {order['execution']}{price}"
    )


def _position_text(position: dict[str, Any]) -> str:
    if position["status"] == "CLOSED":
        return f"{position['id']} CLOSED by {position['exit_reason']}, realized {_money(position['realized_pnl'])} USDT"
    if position["status"] == "OPEN":
        return f"{position['id']} OPEN: {position['quantity']} at {_price(position['entry_price'])}"
    return f"{position['id']} {position['status']}"


def _verdict(life: Life, exchange_orders: int) -> str:
    return (
        f"the books are equal: {exchange_orders} orders and {len(life.fills)} fills at the exchange and here, "
        f"realized {_money(life.realized_pnl)} USDT"
    )


def _price(value: str | None) -> str:
    return "" if value is None else f"{Decimal(value):.2f}"


def _money(value: str | Decimal | None) -> str:
    return "" if value is None else f"{Decimal(value):+.4f}"

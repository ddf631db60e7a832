"""Builds whose halts do not hold, and whose parts of positions are sold without care."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from chaos.mutant import mutant, patched, set_to, wrapped

mutant("halts_leave_the_unsent", "what is valued and not sent when a halt trips is sent later", "halt-in-flight")
patched("halts_leave_the_unsent", "money.halts", "orders_cancel")(set_to(lambda orders, actor="system": None))

mutant("halts_not_asked", "an entry is valued whatever halt is over it", "halt-in-flight")
patched("halts_not_asked", "money.services", "halt_in_force")(set_to(lambda session: None))

mutant("halts_not_guarded", "a flattening whose bell was lost is not carried out", "flatten-killed")
patched("halts_not_guarded", "money.tasks", "WAITING")(lambda rules: rules[:1])
patched("halts_not_guarded", "money.tasks", "UNDONE")(lambda rule: replace(rule, query=lambda now: []))

mutant("part_left_at_work", "all that is left is sold beside a part that may be sold yet", "stop-beside-a-part")
patched("part_left_at_work", "positions.look:Facts", "live_beside_the_exit")(set_to(lambda self: []))

mutant("levels_forgotten", "which take-profit level was carried out is not read off its orders", "part-killed",
       second="a part is what is missing to the sum of the fractions so far")  # fmt: skip
patched("levels_forgotten", "positions.following", "_parts_done")(set_to(lambda one: 0))


@patched("levels_forgotten", "positions.trading", "part_to_sell")
@wrapped
def _as_if_first(original: Callable[..., Any], plan: Any, step: int, entered: Any, exited: Any, *rest: Any) -> Any:
    return original(plan, step, entered, 0, *rest)


mutant("stop_of_the_first_entry", "a stop stays where the first entry put it", "scale-in-killed")


@patched("stop_of_the_first_entry", "positions.following", "levels_in_force")
@wrapped
def _of_the_first(original: Callable[..., Any], plan: Any, entry: Any, progress: Any) -> Any:
    first = _first_prices.setdefault((entry.side, entry.signal_stop, plan.model_dump_json()), entry.entry_price)
    return original(plan, replace(entry, entry_price=first), progress)


_first_prices: dict[Any, Any] = {}

mutant("trailing_looks_at_the_last", "a trailing stop follows the last candle and not the best", "trailing-killed")


@patched("trailing_looks_at_the_last", "positions.following", "_take_extremes")
@wrapped
def _short_memory(original: Callable[..., None], one: Any, position: Any) -> None:
    if one.extremes is not None:
        position.best_price = None
    original(one, position)

"""What a file written for freqtrade asks for that cannot be had here, found in its text before any of it runs: each by name
and line, so that nothing is silently left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from domain.advice import PositionView
from domain.market import ONE, PositionSide
from strategies.freqtrade.shims import EPOCH, MODULES, DataProvider, Trade

# Callbacks and settings of a strategy's class that change what is traded and are not run here, with what to do instead.
REFUSED = {
    "adjust_entry_price": "an entry that does not fill in its candle is given up",
    "adjust_exit_price": "an exit that does not fill in its candle is asked for again",
    "adjust_order_price": "an order that does not fill in its candle is given up",
    "order_filled": "a strategy is not told of single orders",
    "protections": "the account's limits and halts protect it",
    "populate_any_indicators": "FreqAI is not here",
    "feature_engineering_expand_all": "FreqAI is not here",
    "feature_engineering_expand_basic": "FreqAI is not here",
    "feature_engineering_standard": "FreqAI is not here",
    "set_freqai_targets": "FreqAI is not here",
}  # fmt: skip
# What only says how orders are sent, or is for programs that are not here: told, not refused.
NOTED = {
    "order_types": "entries and exits are market orders, targets rest where the venue has such orders",
    "order_time_in_force": "entries and exits are market orders",
    "unfilledtimeout": "a limit entry is given up when its candle has closed",
    "check_entry_timeout": "a limit entry is given up when its candle has closed",
    "check_exit_timeout": "a limit exit is given up when its candle has closed",
    "check_buy_timeout": "a limit entry is given up when its candle has closed",
    "check_sell_timeout": "a limit exit is given up when its candle has closed",
    "plot_config": "charts are drawn by the platform",
    "plot_annotations": "charts are drawn by the platform",
    "ignore_buying_expired_candle_after": "a signal is acted on at the next open or not at all",
    "HyperOpt": "the search has spaces of its own",
    "max_open_trades": "sessions and limits say how much is held at once",
}
# Of the class itself, called on ``self``.
REFUSED_CALLS = {"lock_pair", "unlock_pair", "unlock_reason", "is_pair_locked", "wallets", "freqai"}
KNOWN_CONFIG = {"stake_currency", "timeframe", "runmode", "dry_run"}
KNOWN_OF_DP = {name for name in vars(DataProvider) if not name.startswith("_")}
# Of trades of both sides, made up: so that what is allowed and what there is cannot differ.
KNOWN_OF_TRADE = {name for name in vars(Trade) if not name.startswith("_")} | {
    name
    for side in PositionSide
    for name in vars(Trade(PositionView("A/B", side, 0, EPOCH, EPOCH, ONE, ONE, ONE, ONE), "A/B"))
    if not name.startswith("_")
}
FOREIGN = ("freqtrade", "technical")


@dataclass(slots=True)
class Read:
    """What a file's text says: ``refused`` as (line, why), in order; ``notes`` for whoever runs it."""

    refused: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    asks_for_stake: bool = False


def is_for_freqtrade(source: str) -> bool:
    """Whether the text imports anything of freqtrade; one that is no Python is for nobody."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return any(module.split(".")[0] == "freqtrade" for node in ast.walk(tree) for module, _ in _imports(node))


def read(source: str) -> Read:
    """Everything about the text; raises SyntaxError for what is no Python."""
    tree, found = ast.parse(source), Read()
    found.asks_for_stake = "{stake}" in source or "stake_currency" in source
    top = set(tree.body)
    for node in ast.walk(tree):
        for module, name in _imports(node):
            found.refused += [(_line(node), why) for why in _import_refused(module, name, is_top=node in top)]
        if isinstance(node, ast.Attribute):
            found.refused += [(node.lineno, why) for why in _attribute_refused(node)]
        if isinstance(node, ast.Subscript | ast.Call):
            found.refused += [(node.lineno, why) for why in _config_refused(node)]
        if isinstance(node, ast.Attribute) and _text(node).endswith("dp.send_msg"):
            found.notes.append("dp.send_msg: nothing is sent, notifications are the platform's")
    for kind in _strategies(tree):
        found.classes[kind.name] = kind.lineno
        _read_class(kind, found)
    found.refused.sort()
    found.notes = list(dict.fromkeys(found.notes))
    return found


def _imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of an import; without a name the module itself."""
    if isinstance(node, ast.Import):
        yield from ((one.name, "") for one in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from ((node.module, one.name) for one in node.names)


def _import_refused(module: str, name: str, *, is_top: bool) -> Iterator[str]:
    if module.split(".")[0] not in FOREIGN:
        return
    whole = f"{module}.{name}" if name else module
    if module not in MODULES or (name and name not in MODULES[module] and whole not in MODULES):
        there = ", ".join(sorted(MODULES.get(module) or (one for one in MODULES if MODULES[one])))
        yield f"wanted of {module if module in MODULES else 'freqtrade'} what there is here ({there}), was {whole}"
    elif not is_top:
        yield f"wanted imports of freqtrade at the top of the file, was {whole} inside"


def _attribute_refused(node: ast.Attribute) -> Iterator[str]:
    owner, name = _text(node.value), node.attr
    if owner in ("dp", "self.dp") and name not in KNOWN_OF_DP:
        yield f"wanted of the data provider {', '.join(sorted(KNOWN_OF_DP))}, was dp.{name}"
    elif owner == "self" and name in REFUSED_CALLS:
        yield f"wanted a strategy that decides by candles and its position, was self.{name}"
    elif owner == "Trade":
        yield f"wanted the trade that a callback is given, was Trade.{name}: other trades are not shown"
    elif owner == "trade" and name not in KNOWN_OF_TRADE:
        yield f"wanted of a trade what can be read here ({', '.join(sorted(KNOWN_OF_TRADE))}), was trade.{name}"


def _config_refused(node: ast.Subscript | ast.Call) -> Iterator[str]:
    if isinstance(node, ast.Subscript):
        owner, key = _text(node.value), node.slice
    elif isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
        owner, key = _text(node.func.value), node.args[0]
    else:
        return
    if owner == "self.config" and not (isinstance(key, ast.Constant) and key.value in KNOWN_CONFIG):
        yield f"wanted of the configuration {', '.join(sorted(KNOWN_CONFIG))}, was {ast.unparse(key)}"


def _strategies(tree: ast.Module) -> Iterator[ast.ClassDef]:
    """Classes that derive from IStrategy, by way of others in the file too."""
    known = {"IStrategy"}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(_text(base).split(".")[-1] in known for base in node.bases):
            known.add(node.name)
            yield node


def _read_class(kind: ast.ClassDef, found: Read) -> None:
    for node in kind.body:
        for name, value in _defined(node):
            if name in REFUSED and not _is_nothing(value):
                found.refused.append((_line(node), f"wanted a strategy without {name}: {REFUSED[name]}"))
            elif name in ("ignore_roi_if_entry_signal", "ignore_roi_if_buy_signal") and not _is_nothing(value):
                found.refused.append((_line(node), f"wanted a strategy without {name}: a gain that is met is taken"))
            elif name in NOTED:
                found.notes.append(f"{name}: {NOTED[name]}")
            elif name == "process_only_new_candles" and _is_nothing(value):
                found.notes.append(f"{name}: a candle is looked at when it has closed")


def _defined(node: ast.stmt) -> Iterator[tuple[str, ast.expr | None]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, None
    elif isinstance(node, ast.Assign):
        yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        yield node.target.id, node.value


def _is_nothing(value: ast.expr | None) -> bool:
    """Whether a setting is off or empty."""
    if isinstance(value, ast.Constant):
        return not value.value
    return isinstance(value, ast.List | ast.Tuple) and not value.elts or isinstance(value, ast.Dict) and not value.keys


def _text(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def _line(node: ast.AST) -> int:
    return int(getattr(node, "lineno", 0))

"""Builds that compare an account with its venue and are blind in one eye: to what is late, not ours, gone, unexplained."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from chaos.mutant import mutant, patched, set_to, wrapped

mutant("late_orders_left_alone", "an entry given up and filled after all is in no position", "filled-after-given-up")
for _place in ("positions.late", "positions.reconciliation"):
    patched("late_orders_left_alone", _place, "positions_take_up")(set_to(lambda order_ids: []))

mutant("late_orders_not_told", "nobody is told of a holding that no session takes", "filled-after-given-up")
patched("late_orders_not_told", "positions.reconciliation", "_late_orders")(set_to(lambda account: []))

mutant("manual_close_not_told", "a position sold by hand goes on as if it were there", "sold-by-hand")
patched("manual_close_not_told", "positions.reconciliation", "_missing_holdings")(set_to(lambda reading, foreign: []))

mutant("recovery_trusts_silence", "a session recovers whatever became of its orders and of what it holds",
       "recover-knows", "sold-by-hand")  # fmt: skip


@patched("recovery_trusts_silence", "positions.reconciliation", "session_recovery_carry_out")
def _trusting(_: Any) -> Callable[[int], bool]:
    def carry_out(session_id: int) -> bool:
        from sessions.models import TradingSession  # noqa: PLC0415
        from sessions.services import session_recovery_finish  # noqa: PLC0415

        asked_at = TradingSession.objects.get(pk=session_id).recover_requested_at
        return asked_at is not None and session_recovery_finish(session_id, asked_at)

    return carry_out


mutant("drift_not_told", "money that comes and goes past the platform is nobody's business", "money-moves")
patched("drift_not_told", "positions.reconciliation", "_drift")(set_to(lambda account, reading: []))

mutant("drift_adjusted", "a balance that its fills do not explain is where the account goes on from", "money-moves")


@patched("drift_adjusted", "positions.reconciliation", "_flows")
def _adjusting(_: Any) -> Callable[..., Any]:
    # As if it were read for the first time, every time.
    def flows(account: Any, after_id: Any, until_id: Any) -> dict[str, Any]:
        from positions.models import BalanceAnchor  # noqa: PLC0415

        held = {one.currency: one.total for one in account.balances.all()}
        known = dict(BalanceAnchor.objects.filter(account=account).values_list("currency", "total"))
        return {currency: held.get(currency, 0) - known.get(currency, 0) for currency in {*held, *known}}

    return flows


mutant("others_not_told", "orders of others are nobody's business", "others-orders")
patched("others_not_told", "positions.reconciliation", "_foreign_orders")(set_to(lambda account: []))

mutant("others_counted_again", "an order of others gets a row each time it is seen", "others-orders",
        second="the venue's own id of it is looked for first")  # fmt: skip
patched("others_counted_again", "orders.ledger", "foreign_order_id")(
    set_to(lambda account_id, symbol, exchange_order_id: f"x-{time.monotonic_ns():032}")
)


@patched("others_counted_again", "orders.lookups", "_rows")
@wrapped
def _own_only(original: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    return {oid: order for oid, order in original(*arguments).items() if not order.is_foreign}


mutant("others_cancelled_too", "a session that stops cancels whatever its account has at work", "others-orders")


@patched("others_cancelled_too", "positions.services", "orders_cancel")
@wrapped
def _sweeping(original: Callable[..., None], orders: Any, **kwargs: Any) -> None:
    theirs = [one for order in orders for one in type(order).objects.filter(account=order.account_id, is_foreign=True)]
    original([*orders, *theirs], **kwargs)

"""The fault table, row by row: what breaks, which test besides the scenarios shows that it is borne, or why none can.

The scenarios of a row name it themselves. ``not_here`` says what of a row cannot be broken on one machine, or speaks of a
part that the platform does not have.
"""

from __future__ import annotations

from dataclasses import dataclass

from chaos.scenarios import Scenario, load


@dataclass(frozen=True, slots=True)
class Fault:
    """``tests`` are ``file::name`` of the suite, from the checkout's root."""

    what: str
    tests: tuple[str, ...] = ()
    not_here: str = ""


FAULTS: dict[int, Fault] = {
    1: Fault(
        "kill before the intent's commit",
        ("tests/sessions/test_ticks.py::test_a_claim_that_is_not_committed_ticks_nobody_and_stays_due",),
    ),
    2: Fault(
        "kill after the commit, before the bell",
        ("tests/positions/test_entries.py::test_signals_and_fills_whose_bells_were_lost_are_found_by_the_sweep",),
    ),
    3: Fault(
        "kill after the claim, before the request",
        ("tests/flows/test_restart.py::test_killed_between_claim_and_call_the_order_is_not_placed_and_never_sent",),
    ),
    4: Fault(
        "kill while the request is in the air, accepted",
        (
            "tests/flows/test_restart.py::"
            "test_killed_while_an_accepted_request_hangs_the_order_is_adopted_and_exists_once",
        ),
    ),
    5: Fault(
        "the same, not accepted",
        ("tests/flows/test_restart.py::test_killed_while_a_request_hangs_before_it_was_seen_the_order_is_not_placed",),
    ),
    6: Fault(
        "kill after the answer, before its commit",
        ("tests/flows/test_restart.py::test_killed_between_answer_and_commit_the_order_is_adopted_and_exists_once",),
    ),
    7: Fault("kill after the outcome's commit, before the next bell"),
    8: Fault("kill between the fills and their sums"),
    9: Fault("kill of a whole worker at random moments"),
    10: Fault("SIGTERM during a request, as a deployment does"),
    11: Fault("everything killed at once, PostgreSQL and broker included"),
    12: Fault(
        "the broker restarts with its data lost",
        ("tests/flows/test_restart.py::test_a_broker_that_forgot_everything_loses_nothing",),
    ),
    13: Fault("the broker is away for minutes"),
    14: Fault("the broker hangs, half-open or stalled"),
    15: Fault("the broker is full"),
    16: Fault(
        "every message delivered several times",
        ("tests/races/test_workers.py::test_fifty_bells_for_each_of_two_workers_send_every_order_once",),
    ),
    17: Fault("messages for rows that are gone, and messages that make no sense"),
    18: Fault(
        "a row that always raises",
        (
            "tests/positions/test_entries.py::"
            "test_a_session_that_cannot_be_looked_at_does_not_stop_the_others_of_its_batch",
            "tests/marketdata/test_collect.py::test_one_feed_that_breaks_does_not_keep_its_neighbours_waiting",
            "tests/orders/test_lists.py::"
            "test_an_order_whose_look_always_fails_is_told_of_once_and_keeps_nobody_waiting",
        ),
        not_here="A task that kills its process: none of ours computes in somebody else's C but strategies, and a bell is "
        "acknowledged and lost with its process, so it comes back with the sweep and not at once.",
    ),
    19: Fault("the database restarts under load"),
    20: Fault("the connection breaks in the middle of a commit"),
    21: Fault(
        "deadlocks and serialization failures",
        (
            "tests/races/test_trackers.py::"
            "test_trackers_and_cancellers_of_the_same_rows_never_wait_for_each_other_for_ever",
            "tests/exchanges/test_services.py::"
            "test_quotes_refreshed_at_once_in_any_order_do_not_wait_for_each_other_in_vain",
            "tests/orders/test_holds.py::"
            "test_an_outcome_that_lost_a_deadlock_is_written_again_and_nothing_is_sent_again",
        ),
        not_here="One order of locks keeps deadlocks from happening, and nothing runs serializable; what gives way all the "
        "same is written again, as the cited test makes it.",
    ),
    22: Fault(
        "the disk is full",
        ("tests/orders/test_holds.py::test_a_database_that_cannot_write_sends_nothing",),
        not_here="A disk that is full would be everybody's on this machine: a trigger raises the database's own error.",
    ),
    23: Fault("no database connection is left"),
    24: Fault("timeout after acceptance"),
    25: Fault(
        "the request arrives late",
        ("tests/exchanges/test_gateway_orders.py::test_a_request_that_arrives_after_its_window_is_not_placed",),
    ),
    26: Fault("connection reset after acceptance"),
    27: Fault("HTTP 500, 502, 503, 504, 520, 523, 524, with and without an order"),
    28: Fault("status 200 with HTML, nothing, half an answer, no data"),
    29: Fault(
        "code 408000 and codes nobody knows",
        ("tests/exchanges/test_gateway_orders.py::test_a_code_that_proves_nothing_leaves_the_outcome_unknown",),
    ),
    30: Fault(
        "too many requests",
        (
            "tests/exchanges/test_status.py::test_over_the_venues_limit_an_account_waits_until_then_and_another_trades",
            "tests/exchanges/test_guarded_gateway.py::test_over_the_budget_nothing_is_sent_and_an_exit_still_is",
            "tests/exchanges/test_guarded_gateway.py::test_after_five_failures_in_a_row_nobody_asks_the_venue",
            "tests/exchanges/test_budget.py::test_many_workers_together_never_take_more_than_there_is",
        ),
    ),
    31: Fault(
        "the client order id is called a duplicate",
        ("tests/exchanges/test_gateway_orders.py::test_a_duplicate_of_a_live_order_is_unknown_for_it_may_be_ours",),
    ),
    32: Fault("the venue shows an order only after a while"),
    33: Fault("filled before the look-up; the older endpoint is blind to it"),
    34: Fault("insufficient funds"),
    35: Fault(
        "below minimum, off increment, beyond the price limit",
        (
            "tests/domain/test_sizing.py::test_rounding_down_to_lots_can_fall_below_the_minimum_value",
            "tests/domain/test_market.py::test_a_rounded_quantity_is_whole_lots_less_than_one_below_and_never_above",
        ),
    ),
    36: Fault("errors during look-ups"),
    37: Fault("partial fills, a cancellation, fills after it was asked for"),
    38: Fault(
        "the cancellation's answer is lost; it comes too late",
        ("tests/orders/test_cancel.py::test_a_fill_that_comes_before_the_cancellation_wins",),
    ),
    39: Fault(
        "messages of the stream doubled, late, out of order, missing",
        (
            "tests/stream/test_doorbells.py::test_messages_doubled_lost_late_or_out_of_order_change_nothing_but_when",
            "tests/stream/test_doorbells.py::test_a_fill_of_our_order_rings_for_a_look_and_writes_nothing",
            "tests/positions/test_exits.py::test_replaying_fills_and_looks_changes_no_figure",
            "tests/orders/test_look.py::test_fills_add_up_the_same_in_any_order_and_number",
        ),
    ),
    40: Fault("one trade id on two symbols; fees in a third currency"),
    41: Fault(
        "orders cancelled or made by others at the venue",
        (
            "tests/orders/test_look.py::test_an_order_partly_filled_and_cancelled_by_hand_at_the_venue_says_so",
            "tests/orders/test_lists.py::test_an_order_of_somebody_else_gets_one_row_with_its_fills",
            "tests/reconciliation/test_compare.py::test_a_position_sold_by_hand_is_one_difference_that_names_the_sale",
        ),
    ),
    42: Fault(
        "money moves past the platform",
        (
            "tests/reconciliation/test_compare.py::"
            "test_a_balance_that_its_fills_do_not_explain_is_told_of_and_not_adjusted",
        ),
    ),
    43: Fault(
        "a done order is no longer shown after a long outage",
        (
            "tests/orders/test_lists.py::"
            "test_an_order_of_which_the_venue_shows_no_more_than_its_fills_is_done_when_they_fill_it",
            "tests/orders/test_lists.py::test_the_cursor_stays_where_a_fill_could_not_be_recorded",
            "tests/orders/test_look.py::test_an_open_order_that_the_venue_no_longer_shows_stays_open",
        ),
    ),
    44: Fault(
        "maintenance: cancellations only, then closed",
        ("tests/orders/test_holds.py::test_orders_are_held_while_the_venue_takes_none_and_go_on_alone",),
    ),
    45: Fault("a market is delisted"),
    46: Fault(
        "a key is revoked or loses its permissions",
        ("tests/exchanges/test_balances.py::test_refused_keys_pause_the_account_once_and_say_so_once",),
    ),
    47: Fault(
        "a key may withdraw",
        (
            "tests/exchanges/test_keys.py::test_keys_that_may_withdraw_are_not_saved",
            "tests/exchanges/test_keys.py::test_keys_that_may_withdraw_by_now_pause_their_account_and_say_so_once",
        ),
    ),
    48: Fault("clocks apart by twenty seconds"),
    49: Fault(
        "candles are missing",
        (
            "tests/marketdata/test_collect.py::test_a_candle_that_came_after_it_was_given_up_is_stored_with_the_next",
            "tests/marketdata/test_collect.py::test_a_gap_among_newer_candles_keeps_nobody_waiting",
        ),
    ),
    50: Fault(
        "candles late, revised, open, doubled, reversed",
        (
            "tests/marketdata/test_collect.py::"
            "test_a_candle_that_is_there_already_is_neither_stored_nor_announced_again",
        ),
    ),
    51: Fault(
        "the feed stands still",
        (
            "tests/strategies/test_evaluate.py::test_a_candle_older_than_its_successors_close_is_old_news",
            "tests/marketdata/test_stale.py::test_a_venue_that_goes_on_answering_with_old_candles_makes_a_stale_feed",
            "tests/marketdata/test_stale.py::test_a_venue_whose_candles_are_old_makes_a_stale_feed_and_no_signal",
        ),
    ),
    52: Fault("double click, two tabs, a client that repeats"),
    53: Fault("stop while an order is on its way or unknown"),
    54: Fault(
        "stop, start and start again in quick succession",
        ("tests/sessions/test_needs.py::test_a_stop_and_a_suspension_at_once_end_in_one_status_that_both_agree_with",),
    ),
    55: Fault(
        "two beats, two sweeps, no beat",
        ("tests/sessions/test_ticks.py::test_schedulers_side_by_side_tick_every_session_once",),
    ),
    56: Fault(
        "a worker of another version",
        not_here="There is one version to run. What a worker meets then is played: tasks and arguments it does not know.",
    ),
    57: Fault(
        "thousands of due rows after an outage",
        ("tests/sessions/test_ticks.py::test_a_flood_of_ticks_is_worked_off_in_bounded_claims_oldest_first",),
    ),
    58: Fault(
        "a slow or dead notification channel",
        (
            "tests/pipeline/test_after_commit.py::"
            "test_a_failure_nobody_thought_of_fails_neither_the_transaction_nor_later_hooks",
        ),
        not_here="The platform sends no notifications yet; live listeners are told over Redis, whose absence is played.",
    ),
}


def scenarios_of(row: int) -> list[Scenario]:
    """The scenarios that play a row of the table."""
    return [one for one in load().values() if row in one.rows]


def lines() -> list[str]:
    """The table for a reader: number, fault, and by what it is covered or why it is not."""
    return [
        f"{row:2}  {fault.what}: {', '.join([*(one.name for one in scenarios_of(row)), *fault.tests])}"
        + (f"; {fault.not_here}" if fault.not_here else "")
        for row, fault in FAULTS.items()
    ]

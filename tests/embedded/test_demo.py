"""What the demo counts as a session's exits, and what it tells of them."""

from typing import Any

from embedded.demo import Life


def order(number: int, reason: str, filled: str) -> dict[str, Any]:
    is_exit = reason != "SIGNAL"
    return {"id": number, "is_exit": is_exit, "reason": reason, "filled": filled, "average_price": "100.5"}


def life(*orders: dict[str, Any]) -> Life:
    return Life(session={}, orders=list(orders))


def test_take_profits_of_one_position_are_levels_and_a_purchase_begins_anew() -> None:
    seen = life(
        order(1, "SIGNAL", "2"), order(2, "TAKE_PROFIT", "1"), order(3, "STOP_LOSS", "1"), order(4, "SIGNAL", "4"),
        order(5, "TAKE_PROFIT", "2"), order(6, "TAKE_PROFIT", "2"),
    )  # fmt: skip

    assert [(one.order["id"], one.level) for one in seen.exits] == [(2, 1), (3, 0), (5, 1), (6, 2)]
    assert seen.exits[2].text == "TAKE_PROFIT level 1 of 2: sold 2 of 4 at 100.50"
    assert seen.exits[1].text == "STOP_LOSS: sold 1 of 2 at 100.50"


def test_an_attempt_that_sold_nothing_is_no_exit_and_no_level() -> None:
    seen = life(order(1, "SIGNAL", "2"), order(2, "TAKE_PROFIT", "0"), order(3, "TAKE_PROFIT", "1"))

    assert [(one.order["id"], one.level) for one in seen.exits] == [(3, 1)]


def test_the_exits_are_seen_once_a_stop_and_the_last_level_of_one_position_were() -> None:
    stop = (order(1, "SIGNAL", "2"), order(2, "STOP_LOSS", "2"))
    first, last = order(4, "TAKE_PROFIT", "1"), order(5, "TAKE_PROFIT", "1")

    assert life(*stop, order(3, "SIGNAL", "2"), first, last).has_seen_its_exits
    assert not life(*stop, order(3, "SIGNAL", "2"), first).has_seen_its_exits
    assert not life(order(3, "SIGNAL", "2"), first, last).has_seen_its_exits
    # A level here and a level there are not two of one take-profit.
    assert not life(
        *stop, order(3, "SIGNAL", "2"), first, order(6, "SESSION_STOP", "1"), order(7, "SIGNAL", "2"), last
    ).has_seen_its_exits

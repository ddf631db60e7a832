"""Any number of markets with one account as one loop over plain numbers: compiled where numba is there, else as it stands.

The rules are those of ``domain/`` and are proven against them: tests drive this loop, the engine and a candle-by-candle
oracle with the same random candles and demand the same trades. What a decimal says exactly a float says within a hair: two
prices closer than ``HAIR`` of themselves are one price here, so that 101.5 less 2 % meets a low of 99.47.

Only candles with a position are looked at, one by one; over all others the loop steps to the next entry that is asked for.
Nothing is allocated: whoever calls owns the buffers. The loops take lists or arrays, as are quicker to read, and let go of
the interpreter's lock when compiled.
"""

# Plain numbers and arrays go in, lists or numpy's; types would say nothing that is so for both.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import math
from typing import NamedTuple

HAIR = 1e-12
# Of how many steps of tick or lot a count may be off by rounding, in part and at least.
COUNT_HAIR, LEAST_HAIR = 1e-14, 1e-9
DAY_MS = 86_400_000


class Terms(NamedTuple):
    """The figures of an account. ``amount`` is of the quote currency for ``method`` 0, else a part: of equity (1), of equity
    lost at the stop (2), of equity that one average true range changes (3). A limit that is not set is infinite; those in
    parts are of equity, or of what it was."""

    cash: float
    method: int
    amount: float
    maker_fee: float
    taker_fee: float
    worse: float
    half_spread: float
    margin: float
    leverage: float
    is_resting: bool
    is_closed_at_end: bool
    has_limits: bool
    most_positions: float
    most_leverage: float
    daily_loss: float
    drawdown: float
    trade_risk: float
    open_risk: float
    exposure: float
    exposure_part: float
    market_part: float
    currency_part: float
    net_part: float


# Columns of a market's rules and exits: percentages are parts here, 0 or less is no such exit, a tick or lot of 0 rounds
# nothing. ``LAST`` is where its candles end among those of all markets, likewise its targets, ROI steps and funding.
(
    CAN_SHORT, TICK, LOT, MIN_QUANTITY, MAX_QUANTITY, MIN_NOTIONAL, CONTRACT, STOP_PART, STOP_ATR, STOP_NAMED, TARGET_NAMED,
    TRAIL_PART, TRAIL_ATR, TRAIL_FROM, BREAK_EVEN, BREAK_EVEN_TO, MAX_HOLD, IS_SIGNAL_USED, GUARD, FOLLOWS, BASE, LAST,
    FIRST_LEVEL, LAST_LEVEL, FIRST_ROI, LAST_ROI, FIRST_PAID, LAST_PAID,
) = range(28)  # fmt: skip
PLAN_COLUMNS = 28
# Columns of what is held of a market: ``HELD`` is 1, -1 or 0, ``PLACE`` the candle it is at, ``WHY`` the reason of its stop
# (0: none), ``RANGE`` the average true range of the entry; ``IS_DUE`` is 0 at a step without a candle of its own, 2 where
# that meets something.
(
    HELD, PLACE, ENTERED_IN, OPENED_MS, ENTRY, QUANTITY, ENTERED, EXITED, EXIT_VALUE, FEES, FUNDING, BEST, DONE, RANGE,
    NAMED_STOP, NAMED_TARGET, LIQUIDATION, STOP, WHY, TARGET, TARGET_WHY, STEP, TIME_UP_MS, ROI_AT, ROI_MS, PAID_AT, PAID_MS,
    IS_DUE,
) = range(28)  # fmt: skip
BOOK_COLUMNS = 28
# Columns of what is written of a trade; the reason is a place in ``backtesting.engine.inputs.REASONS``.
(
    MARKET, SIDE, ENTRY_INDEX, EXIT_INDEX, ENTRY_PRICE, EXIT_PRICE, TRADED, PNL, PAID_FEES, PAID_FUNDING, REASON,
) = range(11)  # fmt: skip
TRADE_COLUMNS = 11
# And of an entry that was refused: market, candle, side, place in ``DENIALS``.
REFUSED_COLUMNS = 4


def whole(count, is_up):
    """``count`` as a whole number, a hair off one being that one."""
    hair = COUNT_HAIR * count + LEAST_HAIR
    return math.ceil(count - hair) if is_up else math.floor(count + hair)


def paid_price(price, plan, worse, is_up):
    """What a market order fills at, ``is_up`` where that makes it dearer: worse, and on a tick."""
    price = price * (1 + worse) if is_up else price * (1 - worse)
    return whole(price / plan[TICK], is_up) * plan[TICK] if plan[TICK] > 0 else price


def set_stop(book, plan):  # noqa: C901
    """The stop in force, as ``domain.exits`` has it. NaN is above nothing."""
    side, entry = book[HELD], book[ENTRY]
    best = book[BEST] if (book[BEST] - entry) * side > 0 else entry
    stop, why = 0.0, 0.0
    if plan[STOP_PART] > 0:
        stop, why = entry * (1 - side * plan[STOP_PART]), 1.0
    level = entry - side * plan[STOP_ATR] * book[RANGE]
    if plan[STOP_ATR] > 0 and level > 0 and (why == 0 or (level - stop) * side > 0):
        stop, why = level, 1.0
    level = book[NAMED_STOP]
    if plan[STOP_NAMED] > 0 and level > 0 and (why == 0 or (level - stop) * side > 0):
        stop, why = level, 1.0
    if plan[BREAK_EVEN] > 0:
        armed = entry * (1 + side * plan[BREAK_EVEN])
        level = entry * (1 + side * plan[BREAK_EVEN_TO])
        if (best - armed) * side >= -HAIR * armed and (why == 0 or (level - stop) * side > HAIR * stop):
            stop, why = level, 2.0
    if plan[TRAIL_PART] > 0 or plan[TRAIL_ATR] > 0:
        armed = entry * (1 + side * plan[TRAIL_FROM])
        level = best * (1 - side * plan[TRAIL_PART]) if plan[TRAIL_PART] > 0 else 0.0
        other = best - side * plan[TRAIL_ATR] * book[RANGE]
        if plan[TRAIL_ATR] > 0 and other > 0 and (level == 0 or (other - level) * side > 0):
            level = other
        if (best - armed) * side >= -HAIR * armed and level > 0 and (why == 0 or (level - stop) * side > HAIR * stop):
            stop, why = level, 3.0
    if book[LIQUIDATION] > 0:
        level = entry + (book[LIQUIDATION] - entry) * plan[GUARD]
        if plan[GUARD] > 0 and (why == 0 or (level - stop) * side > HAIR * stop):
            stop, why = level, 9.0
        if why == 0 or (book[LIQUIDATION] - stop) * side > HAIR * stop:
            stop, why = book[LIQUIDATION], 10.0
    book[STOP], book[WHY] = stop, why


def set_target(book, plan, levels, roi):
    """The target in force, as ``domain.exits`` has it: of several the nearest, at one price the one that takes all."""
    side, entry = book[HELD], book[ENTRY]
    target, why, step = 0.0, 0.0, 0.0
    number = int(plan[FIRST_LEVEL] + book[DONE])
    if number < plan[LAST_LEVEL]:
        level = entry * (1 + side * levels[number][0])
        if level > 0:
            target, why = level, 4.0
            step = book[DONE] + 1 if number + 1 < plan[LAST_LEVEL] else 0.0
    level = book[NAMED_TARGET]
    if plan[TARGET_NAMED] > 0 and level > 0:
        nearer = (target - level) * side
        if why == 0 or nearer > HAIR * target or (nearer >= -HAIR * target and step > 0):
            target, why, step = level, 4.0, 0.0
    if book[ROI_AT] > plan[FIRST_ROI]:
        level = entry * (1 + side * roi[int(book[ROI_AT]) - 1][1])
        nearer = (target - level) * side
        if level > 0 and (why == 0 or nearer > HAIR * target or (nearer >= -HAIR * target and step > 0)):
            target, why, step = level, 5.0, 0.0
    if why != 0 and plan[TICK] > 0:
        target = whole(target / plan[TICK], side > 0) * plan[TICK]
        if target <= 0:
            why = 0.0
    book[TARGET], book[TARGET_WHY], book[STEP] = target, why, step


def begin_steps(book, plan, roi, held_ms):
    """Go on to the ROI step that holds after ``held_ms``."""
    number = int(book[ROI_AT])
    while number < plan[LAST_ROI] and roi[number][0] <= held_ms:
        number += 1
    book[ROI_AT] = number
    book[ROI_MS] = roi[number][0] if number < plan[LAST_ROI] else math.inf


def pay_funding(book, plan, paid_ms, rates, now_ms, price):
    """What was paid (negative) or received until ``now_ms``; ``book`` goes on to the next payment."""
    number, rate = int(book[PAID_AT]), 0.0
    while number < plan[LAST_PAID] and paid_ms[number] <= now_ms:
        rate += rates[number]
        number += 1
    book[PAID_AT] = number
    book[PAID_MS] = paid_ms[number] if number < plan[LAST_PAID] else math.inf
    amount = -book[HELD] * rate * book[QUANTITY] * plan[CONTRACT] * price
    book[FUNDING] += amount
    return amount


def leave(book, plan, terms, levels, price, part, is_limit):
    """Leave at ``price`` all, or what target ``part`` is for; what that changes in the wallet. What is left of a position is
    ``QUANTITY``: 0 once it is closed."""
    side, quantity = book[HELD], book[QUANTITY]
    if not is_limit:
        price = paid_price(price, plan, terms.worse, side < 0)
    leaving = quantity
    if part > 0:
        book[DONE] = part
        share = levels[int(plan[FIRST_LEVEL]) + part - 1][1]
        leaving = min(book[ENTERED] * min(share, 1.0) - book[EXITED], quantity, plan[MAX_QUANTITY])
        rest = quantity - leaving
        if plan[LOT] > 0:
            leaving = whole(leaving / plan[LOT], False) * plan[LOT]
            rest = whole((quantity - leaving) / plan[LOT], False) * plan[LOT]
        if (
            leaving <= 0
            or leaving < plan[MIN_QUANTITY] * (1 - HAIR)
            or leaving * plan[CONTRACT] * price < plan[MIN_NOTIONAL] * (1 - HAIR)
        ):
            return 0.0  # too small to be sold: the next level sells it too
        if (
            rest <= HAIR * quantity
            or rest < plan[MIN_QUANTITY] * (1 - HAIR)
            or rest * plan[CONTRACT] * price < plan[MIN_NOTIONAL] * (1 - HAIR)
        ):
            leaving = quantity
    fee = leaving * price * plan[CONTRACT] * (terms.maker_fee if is_limit else terms.taker_fee)
    book[FEES] += fee
    book[EXIT_VALUE] += price * leaving
    book[EXITED] += leaving
    quantity -= leaving
    book[QUANTITY] = quantity if part > 0 and quantity > HAIR * book[ENTERED] else 0.0
    return (price - book[ENTRY]) * leaving * plan[CONTRACT] * side - fee


def write(row, book, plan, market, reason):
    """The trade that ``book`` has become."""
    side, gross = book[HELD], book[EXIT_VALUE] - book[ENTERED] * book[ENTRY]
    row[MARKET], row[SIDE], row[ENTRY_INDEX], row[EXIT_INDEX] = market, side, book[ENTERED_IN], book[PLACE]
    row[ENTRY_PRICE], row[EXIT_PRICE], row[TRADED] = book[ENTRY], book[EXIT_VALUE] / book[ENTERED], book[ENTERED]
    row[PNL] = gross * plan[CONTRACT] * side - book[FEES] + book[FUNDING]
    row[PAID_FEES], row[PAID_FUNDING], row[REASON] = book[FEES], book[FUNDING], reason
    book[HELD] = 0.0


def leave_at_open(book, plan, terms, levels, roi, price, said, is_time_up, market, row):
    """What is due when a candle opens; what it changes in the wallet. ``HELD`` is 0 once ``row`` is written."""
    side, change = book[HELD], 0.0
    while True:
        part, is_limit = 0, False
        if book[WHY] != 0 and (price - book[STOP]) * side <= HAIR * book[STOP]:
            reason = book[WHY]
        elif book[TARGET_WHY] != 0 and (price - book[TARGET]) * side >= -HAIR * book[TARGET]:
            reason, part, is_limit = book[TARGET_WHY], int(book[STEP]), terms.is_resting
        elif is_time_up:
            reason = 6.0
        elif plan[IS_SIGNAL_USED] > 0 and (said == 2 * side or said == -side):
            reason = 7.0
        else:
            return change
        change += leave(book, plan, terms, levels, price, part, is_limit)
        if book[QUANTITY] == 0:
            write(row, book, plan, market, reason)
            return change
        set_target(book, plan, levels, roi)


def leave_inside(book, plan, terms, levels, roi, open_, high, low, market, row):
    """What is met inside a candle; as ``leave_at_open``."""
    side, change = book[HELD], 0.0
    against, along = (low, high) if side > 0 else (high, low)
    while True:
        stop, target, part, is_limit = book[STOP], book[TARGET], 0, False
        if book[WHY] != 0 and (against - stop) * side <= HAIR * stop:
            reason = book[WHY]
            price = min(stop, open_) if side > 0 else max(stop, open_)
        elif book[TARGET_WHY] != 0 and (along - target) * side >= -HAIR * target:
            reason, part, is_limit = book[TARGET_WHY], int(book[STEP]), terms.is_resting
            price = max(target, open_) if side > 0 else min(target, open_)
        else:
            return change
        change += leave(book, plan, terms, levels, price, part, is_limit)
        if book[QUANTITY] == 0:
            write(row, book, plan, market, reason)
            return change
        set_target(book, plan, levels, roi)


def stop_part(plan, price, side, reach, named):
    """How far, as a part of ``price``, the tightest stop is that is set at the entry; 0 without one."""
    found = plan[STOP_PART]
    part = plan[STOP_ATR] * reach / price
    if plan[STOP_ATR] > 0 and part > 0 and (found <= 0 or part < found):
        found = part
    part = (price - named) * side / price
    if plan[STOP_NAMED] > 0 and part > HAIR and (found <= 0 or part < found):
        found = part
    return found


def broken_by(terms, equity, peak, begun, holding):
    """The first limit that lets no entry of any size through, as a place in ``DENIALS``; 0 for none."""
    lost = begun - equity
    if lost > HAIR * begun and lost >= terms.daily_loss * begun * (1 - HAIR):
        return 7
    lost = peak - equity
    if lost > HAIR * peak and lost >= terms.drawdown * peak * (1 - HAIR):
        return 8
    if holding >= terms.most_positions:
        return 9
    return 10 if terms.leverage > terms.most_leverage else 0


def bound_of(part, equity):
    return part * equity if part != math.inf else math.inf


def room_left(terms, plans, books, held, holding, prices, market, side, equity, at_stop):
    """How much notional the limits let through, and the narrowest as a place in ``DENIALS``. ``prices`` are of what is
    held."""
    exposure = net = risk = currency = 0.0
    for number in range(holding):
        book, plan, price = books[held[number]], plans[held[number]], prices[number]
        worth = book[QUANTITY] * plan[CONTRACT] * price
        exposure += worth
        net += worth * book[HELD]
        if plan[BASE] == plans[market][BASE]:
            currency += worth
        lost = (price - book[STOP]) * book[HELD] / price if book[WHY] != 0 else 1.0
        risk += worth * min(max(lost, terms.margin), 1.0) if book[WHY] != 0 else worth
    rate, at_stop = 1 + terms.margin, max(at_stop, terms.margin)
    rooms = (
        bound_of(terms.trade_risk, equity) / at_stop,
        (bound_of(terms.open_risk, equity) - risk) / at_stop,
        (terms.exposure - exposure) / rate,
        (bound_of(terms.most_leverage, equity) - exposure) / rate,
        (bound_of(terms.exposure_part, equity) - exposure) / rate,
        bound_of(terms.market_part, equity) / rate,
        (bound_of(terms.currency_part, equity) - currency) / rate,
        (bound_of(terms.net_part, equity) - net * side) / rate,
    )
    codes = (11, 12, 13, 10, 13, 14, 15, 16)
    room, narrowest = math.inf, 0
    for number in range(8):
        if rooms[number] < room:
            room, narrowest = rooms[number], codes[number]
    return room, narrowest


def wanted_by(terms, equity, price, at_stop, reach, sureness):
    """What the sizing method asks for, and why it cannot, as a place in ``DENIALS``."""
    wanted, denial = terms.amount, 0
    if terms.method == 1:
        wanted = equity * terms.amount
    elif terms.method == 2:
        denial = 5 if at_stop <= 0 else 0
        wanted = equity * terms.amount / at_stop if at_stop > 0 else 0.0
    elif terms.method == 3:
        denial = 0 if reach > 0 else 6
        wanted = equity * terms.amount * price / reach if reach > 0 else 0.0
    # NaN, where nothing is said, is not the same as itself.
    return wanted * min(max(sureness, 0.0), 1.0) if sureness == sureness else wanted, denial


def cut(plan, terms, wanted, free, room, narrowest, price, equity):
    """The quantity within what is free and the room that limits leave, in whole lots, and the denial where it is none."""
    affordable = free / (1 / terms.leverage + terms.margin)
    capped = wanted
    denial = 0
    if affordable < capped:
        capped, denial = affordable, 2
    if room < capped:
        capped, denial = room, narrowest
    # What is left of a limit by rounding only is nothing.
    capped = capped if capped > HAIR * equity else 0.0
    quantity = min(capped / (price * plan[CONTRACT]), plan[MAX_QUANTITY])
    if plan[LOT] > 0:
        quantity = whole(quantity / plan[LOT], False) * plan[LOT]
    if quantity <= 0 or quantity < plan[MIN_QUANTITY] * (1 - HAIR):
        return 0.0, denial if denial != 0 else 3
    if quantity * plan[CONTRACT] * price < plan[MIN_NOTIONAL] * (1 - HAIR):
        return 0.0, denial if denial != 0 else 4
    return quantity, 0


def enter(book, plan, terms, levels, roi, paid_ms, side, price, quantity, place, now_ms):
    """Hold ``quantity`` from now on; the fee."""
    entry = paid_price(price, plan, terms.worse, side > 0)
    fee = quantity * entry * plan[CONTRACT] * terms.taker_fee
    book[HELD], book[PLACE], book[ENTERED_IN], book[OPENED_MS] = side, place, place, now_ms
    book[ENTRY], book[QUANTITY], book[ENTERED], book[EXITED], book[EXIT_VALUE] = entry, quantity, quantity, 0.0, 0.0
    book[FEES], book[FUNDING], book[BEST], book[DONE] = fee, 0.0, entry, 0.0
    book[LIQUIDATION] = entry * (1 - side / terms.leverage) if terms.leverage > 1 else 0.0
    book[TIME_UP_MS] = now_ms + plan[MAX_HOLD] if plan[MAX_HOLD] > 0 else math.inf
    book[ROI_AT], book[PAID_AT], book[IS_DUE] = plan[FIRST_ROI], plan[FIRST_PAID], 2.0
    begin_steps(book, plan, roi, 0.0)
    number = int(plan[FIRST_PAID])
    while number < plan[LAST_PAID] and paid_ms[number] <= now_ms:
        number += 1
    book[PAID_AT], book[PAID_MS] = number, paid_ms[number] if number < plan[LAST_PAID] else math.inf
    set_stop(book, plan)
    set_target(book, plan, levels, roi)
    return fee


def glide(
    book, plan, wallet, peak, clock, open_ms, high, low, close, kinds, equity, step, until
):  # fmt: skip
    """Over the steps to before ``until`` that change nothing, the only position being that of ``book``: the first step that
    may, and the peak of the equity."""
    side, entry, quantity, contract = book[HELD], book[ENTRY], book[QUANTITY], plan[CONTRACT]
    stop, stop_hair = book[STOP], HAIR * book[STOP] if book[WHY] != 0 else -math.inf
    target, target_hair = book[TARGET], -HAIR * book[TARGET] if book[TARGET_WHY] != 0 else math.inf
    best, follows = book[BEST], plan[FOLLOWS] > 0
    change_ms = min(book[TIME_UP_MS], book[PAID_MS], book[ROI_MS] + book[OPENED_MS])
    against, along = (low, high) if side > 0 else (high, low)
    place, last = int(book[PLACE]) + 1, int(plan[LAST])
    leaves = 2 * side
    while step < until and place < last:
        extreme = along[place]
        if (
            open_ms[place] != clock[step]
            or clock[step] >= change_ms
            or kinds[place - 1] == leaves  # an entry of the other side is asked for: it ends the way
            or (against[place] - stop) * side <= stop_hair
            or (extreme - target) * side >= target_hair
            or (follows and (extreme - best) * side > 0)
        ):
            break
        worth = wallet + (close[place] - entry) * quantity * contract * side
        equity[step] = worth
        peak = max(peak, worth)
        place += 1
        step += 1
    book[PLACE] = place - 1
    return step, peak


def first_of(values, wanted):
    """The first place of ``values``, which ascend, that is ``wanted`` or more."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if values[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


def walk(  # noqa: C901  # one loop: a step is these few things in this order
    terms, plans, levels, roi, paid_ms, rates, clock, open_ms, open_, high, low, close, kinds, stops, targets, ranges,
    sureness, ask_step, ask_market, ask_place, first, books, held, prices, equity, trades, refused,
):  # fmt: skip
    """Go over the steps of ``clock`` from ``first`` on. Candles, and what is said along them, are those of all markets one
    after the other; of ``stops``, ``targets``, ``ranges`` and ``sureness`` there may be none. ``levels`` are rows of (gain,
    sum of fractions so far) of targets, ``roi`` of (milliseconds, gain), ``paid_ms`` and ``rates`` are of funding. Entries
    are asked for at the opens of ``ask_place``, by step and then market. ``books`` come with nothing ``HELD``. Writes
    ``equity`` for each step, and rows into ``trades`` and ``refused``; the answer is how many of each."""
    wallet = peak = terms.cash
    count = denied = holding = ask = 0
    step = first
    while step < len(clock):
        if holding == 0:
            until = ask_step[ask] if ask < len(ask_step) else len(clock)
            for idle in range(step, until):
                equity[idle] = wallet
            peak = max(peak, wallet)
            step = until
            if step == len(clock):
                break
        if holding == 1:
            until = ask_step[ask] if ask < len(ask_step) else len(clock)
            step, peak = glide(
                books[held[0]],
                plans[held[0]],
                wallet,
                peak,
                clock,
                open_ms,
                high,
                low,
                close,
                kinds,
                equity,
                step,
                until,
            )
            if step == len(clock):
                break
        now_ms = clock[step]
        kept = 0
        for number in range(holding):
            market = held[number]
            book, plan = books[market], plans[market]
            place = int(book[PLACE]) + 1
            book[IS_DUE] = 0.0
            if place < plan[LAST] and open_ms[place] == now_ms:
                side, said = book[HELD], kinds[place - 1]
                book[PLACE], book[IS_DUE] = place, 1.0
                if book[PAID_MS] <= now_ms:
                    wallet += pay_funding(book, plan, paid_ms, rates, now_ms, open_[place])
                if book[ROI_MS] <= now_ms - book[OPENED_MS]:
                    begin_steps(book, plan, roi, now_ms - book[OPENED_MS])
                    set_target(book, plan, levels, roi)
                against, along = (low[place], high[place]) if side > 0 else (high[place], low[place])
                is_time_up = book[TIME_UP_MS] <= now_ms
                if (
                    is_time_up
                    or said == 2 * side
                    or said == -side
                    or (book[WHY] != 0 and (against - book[STOP]) * side <= HAIR * book[STOP])
                    or (book[TARGET_WHY] != 0 and (along - book[TARGET]) * side >= -HAIR * book[TARGET])
                ):
                    book[IS_DUE] = 2.0
                    wallet += leave_at_open(
                        book, plan, terms, levels, roi, open_[place], said, is_time_up, market, trades[count]
                    )
            if book[HELD] == 0:
                count += 1
            else:
                held[kept] = market
                kept += 1
        holding = kept
        while ask < len(ask_step) and ask_step[ask] == step:
            market, place = ask_market[ask], ask_place[ask]
            book, plan, said = books[market], plans[market], kinds[place - 1]
            ask += 1
            if book[HELD] != 0:
                continue
            worth, bound = wallet, 0.0
            for number in range(holding):
                other, contract = books[held[number]], plans[held[number]][CONTRACT]
                at = int(other[PLACE])
                prices[number] = open_[at] if open_ms[at] == now_ms else close[at]
                worth += (prices[number] - other[ENTRY]) * other[QUANTITY] * contract * other[HELD]
                bound += other[QUANTITY] * contract * other[ENTRY]
            price = open_[place] * (1 + said * terms.half_spread)
            book[RANGE] = ranges[place - 1] if len(ranges) > 0 else math.nan
            book[NAMED_STOP] = stops[place - 1] if len(stops) > 0 else math.nan
            book[NAMED_TARGET] = targets[place - 1] if len(targets) > 0 else math.nan
            at_stop = stop_part(plan, price, said, book[RANGE], book[NAMED_STOP])
            quantity, room, narrowest = 0.0, math.inf, 0
            denial = 1 if said < 0 and plan[CAN_SHORT] == 0 else 0
            if denial == 0 and terms.has_limits:
                since = first_of(clock, now_ms - now_ms % DAY_MS) - 1
                begun = equity[since] if since >= first else terms.cash
                denial = broken_by(terms, worth, peak, begun, holding)
                room, narrowest = room_left(
                    terms, plans, books, held, holding, prices, market, said, worth, at_stop if at_stop > 0 else 1.0
                )
            if denial == 0:
                sure = sureness[place - 1] if len(sureness) > 0 else math.nan
                wanted, denial = wanted_by(terms, worth, price, at_stop, book[RANGE], sure)
                if denial == 0:
                    free = wallet - bound / terms.leverage
                    quantity, denial = cut(plan, terms, wanted, free, room, narrowest, price, worth)
            if denial != 0:
                row = refused[denied]
                row[0], row[1], row[2], row[3] = market, place, said, denial
                denied += 1
                continue
            wallet -= enter(book, plan, terms, levels, roi, paid_ms, said, open_[place], quantity, place, now_ms)
            number = holding
            while number > 0 and held[number - 1] > market:
                held[number] = held[number - 1]
                number -= 1
            held[number] = market
            holding += 1
        value, kept = 0.0, 0
        for number in range(holding):
            market = held[number]
            book, plan, place = books[market], plans[market], int(books[market][PLACE])
            if book[IS_DUE] == 2:
                wallet += leave_inside(
                    book, plan, terms, levels, roi, open_[place], high[place], low[place], market, trades[count]
                )
            if book[HELD] == 0:
                count += 1
                continue
            held[kept] = market
            kept += 1
            # The entry candle's own extreme may lie before the entry.
            if book[IS_DUE] > 0 and plan[FOLLOWS] > 0 and place > book[ENTERED_IN]:
                extreme = high[place] if book[HELD] > 0 else low[place]
                if (extreme - book[BEST]) * book[HELD] > 0:
                    book[BEST] = extreme
                    set_stop(book, plan)
            value += (close[place] - book[ENTRY]) * book[QUANTITY] * plan[CONTRACT] * book[HELD]
        holding = kept
        equity[step] = wallet + value
        peak = max(peak, equity[step])
        step += 1
    for number in range(holding):
        book, plan = books[held[number]], plans[held[number]]
        side, price, reason = book[HELD], close[int(book[PLACE])], 0.0
        if terms.is_closed_at_end:
            reason, price = 8.0, paid_price(price, plan, terms.worse, side < 0)
            fee = book[QUANTITY] * price * plan[CONTRACT] * terms.taker_fee
            wallet += (price - book[ENTRY]) * book[QUANTITY] * plan[CONTRACT] * side - fee
            equity[len(clock) - 1] = wallet
            book[FEES] += fee
        book[EXIT_VALUE] += price * book[QUANTITY]
        write(trades[count], book, plan, held[number], reason)
        count += 1
    return count, denied


def smooth(values, period, average, out):
    """Wilder's averages of ``values`` from the one at ``period`` on into ``out``: in the very steps of ``domain.indicators``,
    and so with its bits."""
    for i in range(period, len(values)):
        average = (average * (period - 1) + values[i]) / period
        out[i] = average


# What the loops are made of: compiled into them.
PARTS = (
    whole, paid_price, set_stop, set_target, begin_steps, pay_funding, leave, write, leave_at_open, leave_inside, stop_part,
    broken_by, bound_of, room_left, wanted_by, cut, enter, glide, first_of,
)  # fmt: skip

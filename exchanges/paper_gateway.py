"""A paper account as a ``Gateway``: virtual money on the real prices of its exchange's markets.

Prices, markets and the clock come from the exchange's public gateway; orders, fills and balances are rows. It is the one
gateway that touches the database, as a venue touches its own: in transactions of its own, never within the caller's
(``durable``), and with every price read before they begin. One account's books change under the account's row lock only,
so an order is there whole or not at all, and no two orders spend the same money.

Orders rest until a price reaches them; one that waits for a stop price holds no money until then, and is cancelled when
there is not enough of it. They are matched whenever the account is asked for anything: against the closed
1m candles since the last time, then against the quote; candles that opened before an order was made cannot fill it.
Fills are whole: nothing is known of the depth behind a price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, localcontext

from django.db import DatabaseError, transaction
from django.db.models import Q
from django.utils import timezone

from domain.candles import Timeframe
from domain.market import ZERO, MarginMode, MarketRules, OrderType, Side, Trigger
from domain.paper import PaperTerms, fee, needed, notional, price_at, price_in, trigger_at, trigger_in, worst_price
from exchanges.gateway import (
    BalanceReport,
    CandleReport,
    ExchangeUnavailable,
    FillReport,
    FundingRateReport,
    FundingReport,
    Gateway,
    KeyRights,
    MarketReport,
    OrderOutcomeUnknown,
    OrderRejected,
    OrderReport,
    OrderTicket,
    PositionReport,
    QuoteReport,
    StatusReport,
    TradeReport,
)
from exchanges.models import Account, Exchange, Market, PaperBalance, PaperFill, PaperOrder

MINUTE = Timeframe.M1.length
# What venues give at once; a market left alone for longer is caught up with over several looks.
CANDLES_PER_CALL = 1500
# A closed candle may come late. A minute without one, older than this, had no trade.
CANDLES_ARE_LATE_BY = timedelta(minutes=10)
DIGITS = 60
# Orders whose stop price was not met yet.
WAITING = Q(stop_price__isnull=False, triggered_at=None)


@dataclass(frozen=True, slots=True)
class _Prices:
    """What was read of one market: candles from ``since`` on, complete until ``until``, then the quote."""

    candles: Sequence[CandleReport]
    until: datetime
    quote: QuoteReport | None


class PaperGateway:
    """One paper account. ``public`` opens a gateway without keys to its exchange that knows the given markets."""

    # A request that arrives after its window changes nothing.
    refuses_late_requests = refuses_late_stops = True

    def __init__(self, exchange: Exchange, account_id: int, public: Callable[[Sequence[Market]], Gateway]) -> None:
        self._exchange = exchange
        self._account_id = account_id
        self._public = public

    def time(self) -> datetime:
        return self._public([]).time()

    def status(self) -> StatusReport:
        return self._public([]).status()

    def key_rights(self) -> KeyRights:
        return KeyRights(can_trade=True, can_withdraw=False, is_bound_to_addresses=None)

    def markets(self) -> list[MarketReport]:
        return self._public([]).markets()

    def quotes(self, symbols: Sequence[str]) -> list[QuoteReport]:
        return self._public(self._known(symbols)).quotes(symbols)

    def candles(self, symbol: str, timeframe: str, since: datetime, limit: int) -> list[CandleReport]:
        return self._public(self._known([symbol])).candles(symbol, timeframe, since, limit)

    def trades_since(self, symbol: str, since: datetime, limit: int) -> list[TradeReport]:
        return self._public(self._known([symbol])).trades_since(symbol, since, limit)

    def funding_rates_since(self, symbol: str, since: datetime, limit: int) -> list[FundingRateReport]:
        return self._public(self._known([symbol])).funding_rates_since(symbol, since, limit)

    def balances(self) -> list[BalanceReport]:
        self._match()
        with self._reading():
            rows = PaperBalance.objects.filter(account_id=self._account_id).order_by("currency")
            return [BalanceReport(row.currency, row.total, row.free) for row in rows]

    def positions(self) -> list[PositionReport]:
        return []  # nobody opens a paper account at a venue of contracts

    def fundings_since(self, symbol: str, since: datetime) -> list[FundingReport]:
        return []

    def order_create(self, ticket: OrderTicket) -> str:
        """As the Protocol says. A client order id that was used before raises OrderOutcomeUnknown, whatever became of it:
        the look-up that follows finds the one order of that id, and a second is never made."""
        market = self._tradable(ticket)
        self._match()
        quotes = self._public([market]).quotes([market.symbol])
        if not quotes:
            raise ExchangeUnavailable(f"wanted a price of {market.symbol}, was none")
        try:
            with self._books():
                return str(self._made(ticket, market, quotes[0]).pk)
        except DatabaseError as error:
            raise OrderOutcomeUnknown(f"the books gave no answer ({type(error).__name__})") from error

    def order_find(self, symbol: str, client_order_id: str) -> OrderReport | None:
        return self._one(symbol, client_order_id=client_order_id)

    def order_get(self, symbol: str, exchange_order_id: str) -> OrderReport | None:
        pk = _id(exchange_order_id)
        return None if pk is None else self._one(symbol, pk=pk)

    def orders_open(self, symbol: str) -> list[OrderReport]:
        self._match()
        return self._reports(~WAITING, market__symbol=symbol, is_open=True)

    def orders_done(self, symbol: str, since: datetime) -> list[OrderReport]:
        self._match()
        return self._reports(market__symbol=symbol, is_open=False, created_at__gte=since)

    def symbols_open(self) -> list[str] | None:
        self._match()
        with self._reading():
            resting = PaperOrder.objects.filter(~WAITING, account_id=self._account_id, is_open=True)
            return sorted(set(resting.values_list("market__symbol", flat=True)))

    def fills_since(self, symbol: str, since: datetime) -> list[FillReport]:
        self._match()
        return self._fills(order__market__symbol=symbol, filled_at__gte=since)

    def order_cancel(self, symbol: str, exchange_order_id: str) -> None:
        self.stop_cancel(symbol, exchange_order_id)

    def order_fills(self, symbol: str, exchange_order_id: str) -> list[FillReport]:
        self._match()
        pk = _id(exchange_order_id)
        return [] if pk is None else self._fills(order_id=pk, order__market__symbol=symbol)

    def stop_find(self, symbol: str, client_order_id: str) -> OrderReport | None:
        return self.order_find(symbol, client_order_id)

    def stops_open(self, symbol: str) -> list[OrderReport]:
        self._match()
        return self._reports(WAITING, market__symbol=symbol, is_open=True)

    def margin_match(self, symbol: str, mode: MarginMode, leverage: Decimal) -> None:
        pass  # the paper books know no margin

    def stop_cancel(self, symbol: str, exchange_order_id: str) -> bool:
        # What the price reached before the cancellation came is filled, not cancelled.
        self._match()
        pk = _id(exchange_order_id)
        if pk is None:
            return False
        with self._reading(), self._books():
            order = PaperOrder.objects.filter(
                pk=pk, account_id=self._account_id, market__symbol=symbol, is_open=True
            ).first()
            if order is None:
                return False
            was_waiting = order.is_waiting
            self._cancel(order, order.market.rules)
            return was_waiting

    def _known(self, symbols: Sequence[str]) -> list[Market]:
        return list(Market.objects.filter(exchange=self._exchange, symbol__in=list(symbols)))

    def _now(self) -> datetime:
        return self._exchange.time_at(timezone.now())

    @contextmanager
    def _books(self) -> Iterator[None]:
        """The account's books, nobody else's until the block ends; committed then, or unchanged."""
        with transaction.atomic(durable=True), localcontext(prec=DIGITS):
            Account.objects.select_for_update(no_key=True).only("pk").get(pk=self._account_id, is_paper=True)
            yield

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            raise ExchangeUnavailable(f"the books gave no answer ({type(error).__name__})") from error

    def _one(self, symbol: str, **which: object) -> OrderReport | None:
        self._match()
        # Under the lock: an order that is being made at this moment is waited for, and then seen.
        with self._reading(), self._books():
            rows = PaperOrder.objects.filter(account_id=self._account_id, market__symbol=symbol, **which)
            order = rows.select_related("market").first()
            return None if order is None else _order_report(order)

    def _reports(self, *conditions: Q, **which: object) -> list[OrderReport]:
        with self._reading():
            rows = PaperOrder.objects.filter(*conditions, account_id=self._account_id, **which)
            return [_order_report(row) for row in rows.select_related("market").order_by("created_at", "pk")]

    def _fills(self, **which: object) -> list[FillReport]:
        with self._reading():
            rows = PaperFill.objects.filter(order__account_id=self._account_id, **which)
            return [_fill_report(row) for row in rows.select_related("order__market").order_by("filled_at", "pk")]

    def _tradable(self, ticket: OrderTicket) -> Market:
        """The ticket's market. Raises OrderRejected for what a venue would refuse whatever the price and the balance."""
        market = next(iter(self._known([ticket.symbol])), None)
        if market is None or not market.is_active:
            raise OrderRejected(f"wanted a market that is traded, was {ticket.symbol}", code="MARKET_NOT_TRADABLE")
        if market.kind != Market.Kind.SPOT:
            raise OrderRejected(f"wanted a spot market, was {market.kind}", code="NOT_SPOT")
        is_unsuitable = {
            OrderType.MARKET: ticket.price is not None,
            OrderType.LIMIT: ticket.price is None,
            OrderType.STOP: ticket.stop_price is None,
        }[ticket.order_type]
        if is_unsuitable or (ticket.stop_price is None) is not (ticket.trigger is None):
            raise OrderRejected(
                f"wanted the prices of a {ticket.order_type} order, was price {ticket.price}, stop {ticket.stop_price} "
                f"and trigger {ticket.trigger}",
                code="PRICE_UNSUITABLE",
            )
        rules = market.rules
        for level in (ticket.price, ticket.stop_price):
            if level is not None and (level <= 0 or level % rules.tick_size):
                raise OrderRejected(f"wanted a price in steps of {rules.tick_size}, was {level}", code="TICK_SIZE")
        if ticket.quantity % rules.lot_size:
            raise OrderRejected(
                f"wanted a quantity in lots of {rules.lot_size}, was {ticket.quantity}", code="LOT_SIZE"
            )
        if ticket.quantity <= 0 or ticket.quantity < rules.min_quantity:
            raise OrderRejected(
                f"wanted at least {rules.min_quantity} {rules.base}, was {ticket.quantity}", code="BELOW_MIN_QUANTITY"
            )
        if rules.max_quantity is not None and ticket.quantity > rules.max_quantity:
            raise OrderRejected(
                f"wanted at most {rules.max_quantity} {rules.base}, was {ticket.quantity}", code="ABOVE_MAX_QUANTITY"
            )
        return market

    def _made(self, ticket: OrderTicket, market: Market, quote: QuoteReport) -> PaperOrder:
        """Enter the order into the locked books, hold what it needs unless it waits for a stop price, and fill it if the
        price is there."""
        if PaperOrder.objects.filter(account_id=self._account_id, client_order_id=ticket.client_order_id).exists():
            raise OrderOutcomeUnknown(f"client order id {ticket.client_order_id} was used before: look it up")
        # Looked at under the lock, like the look-ups: "not found" after the window means that it is not placed.
        late = timezone.now() - (ticket.sent_at + timedelta(milliseconds=ticket.window_ms))
        if late > timedelta(0):
            raise ExchangeUnavailable(f"wanted a request within {ticket.window_ms} ms, was {late} later")
        now, rules = self._now(), market.rules
        order = PaperOrder(
            account_id=self._account_id, market=market, client_order_id=ticket.client_order_id, side=ticket.side,
            order_type=ticket.order_type, quantity=ticket.quantity, price=ticket.price, stop_price=ticket.stop_price,
            trigger=ticket.trigger or "", created_at=now, matched_until=now,
        )  # fmt: skip
        terms = _terms(order)
        price = None if order.is_waiting else price_at(terms, rules, quote.bid, quote.ask)
        worst = worst_price(terms, rules, price)
        if rules.notional(order.quantity, worst) < rules.min_notional or worst <= 0:
            raise OrderRejected(
                f"wanted a value of at least {rules.min_notional} {rules.quote}, was "
                f"{rules.notional(order.quantity, worst):f}",
                code="BELOW_MIN_NOTIONAL",
            )
        if order.is_waiting:
            order.save()
            self._meet(order, rules, trigger_at(terms, quote.bid, quote.ask), now)
            return order
        pays = self._balance(rules.quote if order.side == Side.BUY else rules.base)
        order.held = needed(terms, rules, worst)
        if pays.free < order.held:
            raise OrderRejected(
                f"wanted {order.held:f} {pays.currency}, was {pays.free:f} free", code="INSUFFICIENT_BALANCE"
            )
        pays.held += order.held
        pays.save()
        order.save()
        if price is not None:
            self._fill(order, rules, price, rules.taker_fee, now)
        return order

    def _match(self) -> None:
        """Fill what rests and was reached. Reads prices first, and only of markets with resting orders."""
        with self._reading():
            resting = list(
                PaperOrder.objects.filter(account_id=self._account_id, is_open=True).select_related("market")
            )
        if not resting:
            # The books are still entered by whoever reads next; nothing to ask the venue for.
            return
        markets = {order.market_id: order.market for order in resting}
        public = self._public(list(markets.values()))
        prices = {}
        # Candles before the quote, so that the quote is the later of the two.
        read = {
            pk: self._candles_of(public, market.symbol, min(o.matched_until for o in resting if o.market_id == pk))
            for pk, market in markets.items()
        }
        quotes = {quote.symbol: quote for quote in public.quotes([market.symbol for market in markets.values()])}
        for pk, market in markets.items():
            prices[pk] = _Prices(*read[pk], quotes.get(market.symbol))
        with self._reading(), self._books():
            # Only what was there before the prices were read; whoever came first has filled it already.
            mine = PaperOrder.objects.filter(pk__in=[order.pk for order in resting], is_open=True)
            for order in mine.select_related("market").order_by("pk"):
                self._match_one(order, prices[order.market_id])

    def _candles_of(self, public: Gateway, symbol: str, since: datetime) -> tuple[list[CandleReport], datetime]:
        """The closed candles from ``since`` on, and until when they tell all."""
        first = Timeframe.M1.open_of(since)
        first = first if first == since else first + MINUTE
        now = self._now()
        if first + MINUTE > now:
            return [], since
        end = min(first + CANDLES_PER_CALL * MINUTE, Timeframe.M1.open_of(now))
        rows = public.candles(symbol, Timeframe.M1.value, first, CANDLES_PER_CALL)
        closed = [row for row in rows if first <= row.open_at < end]
        last = closed[-1].open_at + MINUTE if closed else since
        return closed, max(since, last, min(end, now - CANDLES_ARE_LATE_BY))

    def _match_one(self, order: PaperOrder, prices: _Prices) -> None:
        rules, terms = order.market.rules, _terms(order)
        for candle in prices.candles:
            if candle.open_at < order.matched_until:
                continue
            prices_of_it, at = (candle.open, candle.low, candle.high), candle.open_at + MINUTE
            if order.is_waiting:
                self._meet(order, rules, trigger_in(terms, *prices_of_it), at)
            else:
                self._fill_at(order, rules, price_in(terms, rules, *prices_of_it), rules.maker_fee, at)
            if not order.is_open:
                return
        if prices.quote is not None:
            bid, ask = prices.quote.bid, prices.quote.ask
            if order.is_waiting:
                self._meet(order, rules, trigger_at(terms, bid, ask), self._now())
            else:
                self._fill_at(order, rules, price_at(terms, rules, bid, ask), rules.maker_fee, self._now())
        if order.is_open and prices.until > order.matched_until:
            order.matched_until = prices.until
            order.save(update_fields=["matched_until"])

    def _meet(self, order: PaperOrder, rules: MarketRules, price: Decimal | None, at: datetime) -> None:
        """Let a waiting order whose stop price is met begin with the market at ``price``; None: it is not met."""
        if price is None:
            return
        order.triggered_at = order.matched_until = at
        terms = _terms(order)
        self._fill_at(order, rules, price_in(terms, rules, price, price, price), rules.taker_fee, at)
        if not order.is_open or order.price is None:
            return
        # A limit that the market is beyond: it rests, from the next prices on.
        pays = self._balance(rules.quote if order.side == Side.BUY else rules.base)
        wanted = needed(terms, rules, order.price)
        if pays.free < wanted:
            self._cancel(order, rules)
            return
        pays.held += wanted
        pays.save()
        order.held = wanted
        order.save()

    def _fill_at(
        self, order: PaperOrder, rules: MarketRules, price: Decimal | None, rate: Decimal, at: datetime
    ) -> None:
        if price is not None:
            self._fill(order, rules, price, rate, at)

    def _fill(self, order: PaperOrder, rules: MarketRules, price: Decimal, rate: Decimal, at: datetime) -> None:
        """Fill what is left of the order at ``price``; a stop that the money does not reach is cancelled."""
        side, quantity = Side(order.side), order.quantity - order.filled
        value, cost = notional(rules, side, quantity, price), fee(rules, side, quantity, price, rate)
        base, quote = self._balance(rules.base), self._balance(rules.quote)
        if side is Side.BUY:
            if quote.free + order.held < value + cost:
                return self._cancel(order, rules)
            quote.held -= order.held
            quote.total -= value + cost
            base.total += quantity * rules.contract_size
        else:
            if base.free + order.held < quantity * rules.contract_size:
                return self._cancel(order, rules)
            base.held -= order.held
            base.total -= quantity * rules.contract_size
            quote.total += value - cost
        base.save()
        quote.save()
        PaperFill.objects.create(order=order, quantity=quantity, price=price, fee=cost, filled_at=at)
        order.filled += quantity
        order.filled_quote += value
        order.held, order.is_open, order.matched_until = ZERO, False, at
        order.save()
        return None

    def _cancel(self, order: PaperOrder, rules: MarketRules) -> None:
        pays = self._balance(rules.quote if order.side == Side.BUY else rules.base)
        pays.held -= order.held
        pays.save()
        order.held, order.is_open, order.is_canceled = ZERO, False, True
        order.save()

    def _balance(self, currency: str) -> PaperBalance:
        return PaperBalance.objects.get_or_create(account_id=self._account_id, currency=currency)[0]


def _terms(order: PaperOrder) -> PaperTerms:
    trigger = Trigger(order.trigger) if order.trigger else None
    return PaperTerms(Side(order.side), order.quantity, order.price, order.stop_price, trigger)


def _type_of(order: PaperOrder) -> OrderType:
    """What it is now: a stop order that began is a limit or a market order."""
    if order.is_waiting:
        return OrderType.STOP
    return OrderType.MARKET if order.price is None else OrderType.LIMIT


def _id(exchange_order_id: str) -> int | None:
    """Ours are numbers; anything else is nobody's."""
    return int(exchange_order_id) if exchange_order_id.isascii() and exchange_order_id.isdigit() else None


def _order_report(order: PaperOrder) -> OrderReport:
    return OrderReport(
        exchange_order_id=str(order.pk),
        client_order_id=order.client_order_id,
        symbol=order.market.symbol,
        side=Side(order.side),
        quantity=order.quantity,
        filled=order.filled,
        filled_quote=order.filled_quote,
        is_open=order.is_open,
        is_canceled=order.is_canceled,
        order_type=_type_of(order),
        price=order.price,
        created_at=order.created_at,
        is_waiting=order.is_waiting,
    )


def _fill_report(fill: PaperFill) -> FillReport:
    order = fill.order
    return FillReport(
        trade_id=str(fill.pk),
        exchange_order_id=str(order.pk),
        symbol=order.market.symbol,
        side=Side(order.side),
        quantity=fill.quantity,
        price=fill.price,
        fee=fill.fee,
        fee_currency=order.market.quote,
        filled_at=fill.filled_at,
    )

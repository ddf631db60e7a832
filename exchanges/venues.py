"""What venues do differently, as data: a row of ``VENUES`` for each that is described, ``UNDESCRIBED`` for any other
exchange that ccxt speaks to.

Whether an order was refused is read from the venue's own code by a white list, never from ccxt's exception class: a class
does not tell whether the order was accepted first. Of a venue that nobody has described nothing is on that list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from domain.market import MarginMode, to_decimal
from exchanges.ccxt_contracts import contracts_margin, contracts_params
from exchanges.ccxt_stops import KUCOIN_FUTURES_STOPS, KUCOIN_STOPS, Stops
from exchanges.gateway import BalanceReport, KeyRights, OrderTicket, StatusReport, VenueStatus
from exchanges.paging import Row, Walk, walk_backward, walk_both_ways, walk_by_cursor, walk_by_page, walk_forward

WEEK_MS = 7 * 86_400_000
# Of what a venue says about its state.
MOST_WORDS = 200


def _unified_order_params(ticket: OrderTicket, sent_ms: int) -> dict[str, Any]:
    if ticket.leverage != 1:
        raise ValueError(f"wanted a leverage of 1 on a venue that nobody has described, was {ticket.leverage}")
    reduce_only = {"reduceOnly": True} if ticket.is_reduce_only else {}
    return {"clientOrderId": ticket.client_order_id, **reduce_only}


def _is_json(answer: Any) -> bool:
    return isinstance(answer, dict | list)


def _unified_status(ccxt: Any) -> StatusReport:
    # An exchange without such an answer, or one whose answer ccxt makes up, takes orders until it refuses one.
    if ccxt.has.get("fetchStatus") is not True:
        return StatusReport(VenueStatus.OPEN)
    answer = ccxt.fetch_status()
    is_open = answer["status"] == "ok"
    return StatusReport(
        VenueStatus.OPEN if is_open else VenueStatus.CLOSED, "" if is_open else str(answer["status"])[:MOST_WORDS]
    )


def _unknown_rights(ccxt: Any) -> KeyRights:
    return KeyRights(can_trade=None, can_withdraw=None, is_bound_to_addresses=None)


def _unified_balances(ccxt: Any) -> list[BalanceReport]:
    answer = ccxt.fetch_balance()
    return [
        BalanceReport(currency, to_decimal(total), to_decimal(answer["free"][currency]))
        for currency, total in answer["total"].items()
    ]


def _no_symbols_open(ccxt: Any) -> list[str] | None:
    return None


@dataclass(frozen=True, slots=True)
class Pool:
    """So much ``weight`` in so many ``seconds``."""

    weight: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a venue allows: its pools, and which of them each call of a gateway draws from with what weight, all of its usual
    requests together. ``PUBLIC`` is the pool of an address; every other pool is an account's. A list by pages weighs its
    first two: more are rare, and a pool that the venue finds empty nevertheless is blocked until the venue says it is full
    again."""

    pools: Mapping[str, Pool]
    calls: Mapping[str, tuple[str, int]]


PUBLIC = "public"
_PUBLIC_CALLS = ("time", "status", "markets", "quotes", "candles", "trades_since", "funding_rates_since")
_ACCOUNT_CALLS = (
    "order_create", "order_cancel", "order_find", "order_get", "order_fills", "orders_open", "symbols_open",
    "orders_done", "fills_since", "stop_find", "stops_open", "stop_cancel", "balances", "key_rights", "positions",
    "fundings_since", "margin_match",
)  # fmt: skip
# For a venue whose figures nobody has written down: less than any venue we know of allows.
CAUTIOUS = Allowance(
    pools={PUBLIC: Pool(600, 60), "account": Pool(600, 60)},
    calls={**dict.fromkeys(_PUBLIC_CALLS, (PUBLIC, 1)), **dict.fromkeys(_ACCOUNT_CALLS, ("account", 1))},
)


@dataclass(frozen=True, slots=True)
class Venue:
    """How one ccxt exchange is set up and understood. The defaults are for one of which nothing is known.

    ``order_params`` gets the ticket and its sending time in the venue's clock; ``refuses_late_requests`` says that the
    venue judges by them when a request is too late. ``rejected`` and ``refused_key`` are codes (or code and message) after
    which the order certainly does not exist; ``not_looked_at`` are refusals after which the very same order may be sent
    again; all else is an unknown outcome. ``about_status`` and ``about_market`` are codes of refusals that speak of the
    venue's state and of the market's: what we know of either is old. ``not_found`` say that there is no such order;
    without any, ccxt's word counts. ``is_answer`` tells an answer of the venue's from a proxy's page, which ccxt would read
    as "there is nothing". ``retry_headers`` name the headers that say when to ask again, and their unit. ``done_lists`` are
    the ccxt calls that together list every order that is done; without any, whatever the exchange has. ``history`` reads
    such a list, and that of fills, whole. ``fills_next`` asks for the next page of one order's fills, by the page before.
    ``stops`` is how it keeps orders that wait for a price; without any it is given none. ``allowance`` is how much it may be
    asked.

    Where its markets are of contracts, ``amount`` is how ccxt takes a quantity, ``fundings`` reads the list of funding
    payments whole, ``margin`` brings a market's margin mode and leverage to those of the next order, where that has to be
    done, and ``other_margin`` are refusals for want of it. ``is_signed_at_claim`` stamps the request of an order with the
    time of its claim instead of its own: the venue then refuses what arrives late by the signature alone.
    ``candles_at_most`` is the most that one request gives, 0 where that is as many as we ask for. ``open_params`` make the
    list of open orders one page, and ``page_size`` is what the venue calls the length of one. ``no_paper`` says why nobody
    trades there on paper. ``bounds_trades``: its list of trades ends an hour after it begins, unless it is told
    where to end.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    path_prefixes: Mapping[str, str] = field(default_factory=dict)
    order_params: Callable[[OrderTicket, int], dict[str, Any]] = _unified_order_params
    refuses_late_requests: bool = False
    finds_by_client_id: bool = False
    rejected: frozenset[str] = frozenset()
    refused_key: frozenset[str] = frozenset()
    not_looked_at: frozenset[str] = frozenset()
    about_status: frozenset[str] = frozenset()
    about_market: frozenset[str] = frozenset()
    not_found: frozenset[str] = frozenset()
    is_answer: Callable[[Any], bool] = _is_json
    retry_headers: Mapping[str, timedelta] = field(default_factory=lambda: {"Retry-After": timedelta(seconds=1)})
    done_lists: tuple[str, ...] = ()
    history: Walk = walk_both_ways
    fills_page: int = 0
    fills_next: Callable[[Sequence[Row]], dict[str, Any]] | None = None
    status: Callable[[Any], StatusReport] = _unified_status
    key_rights: Callable[[Any], KeyRights] = _unknown_rights
    symbols_open: Callable[[Any], list[str] | None] = _no_symbols_open
    stops: Stops | None = None
    balances: Callable[[Any], list[BalanceReport]] = _unified_balances
    amount: Callable[[Decimal], Any] = str
    fundings: Walk = walk_both_ways
    margin: Callable[[Any, str, MarginMode, Decimal], None] | None = None
    other_margin: frozenset[str] = frozenset()
    is_signed_at_claim: bool = False
    candles_at_most: int = 0
    open_params: Mapping[str, Any] = field(default_factory=dict)
    no_paper: str = ""
    bounds_trades: bool = False
    page_size: str = "limit"
    allowance: Allowance = CAUTIOUS


# -- KuCoin -------------------------------------------------------------------------------------------------------------


def _kucoin_order_params(ticket: OrderTicket, sent_ms: int) -> dict[str, Any]:
    return {
        "clientOid": ticket.client_order_id,
        # The venue refuses the request when it arrives later than this: what makes "not found" mean "not placed".
        "clientTimestamp": sent_ms,
        "allowMaxTimeWindow": ticket.window_ms,
    }


def _is_kucoin_answer(answer: Any) -> bool:
    return isinstance(answer, dict) and answer.get("data") is not None


def _kucoin_fills_before(page: Sequence[Row]) -> dict[str, Any]:
    return {"lastId": min(int(row["info"]["id"]) for row in page)}


def _kucoin_status(ccxt: Any) -> StatusReport:
    answer = ccxt.fetch_status()["info"]["data"]
    known = {"open": VenueStatus.OPEN, "cancelonly": VenueStatus.CANCEL_ONLY, "close": VenueStatus.CLOSED}
    return StatusReport(known[answer["status"]], str(answer.get("msg") or "")[:MOST_WORDS])


def _kucoin_key_rights(ccxt: Any) -> KeyRights:
    answer = ccxt.privateGetUserApiKey()["data"]
    rights = {right.strip() for right in answer["permission"].split(",")}
    addresses = answer.get("ipWhitelist")
    # InnerTransfer moves money between the trader's own wallets; Transfer takes it out.
    return KeyRights("Spot" in rights, "Transfer" in rights, None if addresses is None else bool(addresses))


def _kucoin_symbols_open(ccxt: Any) -> list[str]:
    ids = ccxt.privateGetHfOrdersActiveSymbols()["data"]["symbols"]
    return [str(ccxt.safe_symbol(market_id, None, "-")) for market_id in ids]


_KUCOIN = Venue(
    # Explicit hf and uta: with injected markets ccxt would not find out, and would use the deprecated order path,
    # on which a finished order cannot be looked up by our id.
    options={"hf": True, "uta": False, "fetchMarkets": {"types": ["spot"], "fetchTickersFees": True}},
    path_prefixes={"futuresPublic": "/_futures", "futuresPrivate": "/_futures"},
    order_params=_kucoin_order_params,
    refuses_late_requests=True,
    finds_by_client_id=True,
    rejected=frozenset(
        {
            "200001",
            "200003",
            "200004",
            "210021",
            "230003",
            "260100",
            "600100",
            "600101",
            "600203",
            "300000",
            "300003",
            "300012",
            "400200",
            "400350",
            "400370",
            "400760",
            "400400",
            "400500",
            "400600",
            "400303",
            "101030",
            "112010",
            "900001",
            "404000",
            "400000",
            # 400100 alone is no proof: the same code says "this client order id is already live".
            "400100:account.available.amount",
            "400100:Order size below the minimum requirement.",
            "400100:The quantity is below the minimum requirement.",
        }
    ),  # fmt: skip
    refused_key=frozenset({"400001", "400003", "400004", "400005", "400006", "400007", "400401", "411100"}),
    not_looked_at=frozenset({"400002", "429000", "429"}),
    about_status=frozenset({"200001", "200002"}),
    about_market=frozenset({"400600", "600203", "900001"}),
    is_answer=_is_kucoin_answer,
    retry_headers={"gw-ratelimit-reset": timedelta(milliseconds=1)},
    # Finished and cancelled orders are one list here.
    done_lists=("fetchClosedOrders",),
    history=partial(walk_by_cursor, size=100, span_ms=WEEK_MS),
    fills_page=100,
    fills_next=_kucoin_fills_before,
    status=_kucoin_status,
    key_rights=_kucoin_key_rights,
    symbols_open=_kucoin_symbols_open,
    stops=KUCOIN_STOPS,
    # For an ordinary account (VIP 0).
    allowance=Allowance(
        pools={PUBLIC: Pool(2000, 30), "spot": Pool(4000, 30), "management": Pool(2000, 30)},
        calls={
            "time": (PUBLIC, 3), "status": (PUBLIC, 3), "markets": (PUBLIC, 22), "quotes": (PUBLIC, 15),
            "candles": (PUBLIC, 3), "trades_since": (PUBLIC, 3), "funding_rates_since": (PUBLIC, 0),
            "order_create": ("spot", 1), "order_cancel": ("spot", 1), "order_find": ("spot", 2), "order_get": ("spot", 2),
            "order_fills": ("spot", 2), "orders_open": ("spot", 2), "symbols_open": ("spot", 2),
            "orders_done": ("spot", 5), "fills_since": ("spot", 5),
            # A stop order is looked for in two places.
            "stop_find": ("spot", 5), "stops_open": ("spot", 8), "stop_cancel": ("spot", 3),
            "balances": ("management", 5), "key_rights": ("management", 20),
            # It has none, and nothing is asked.
            "positions": ("spot", 0), "fundings_since": ("spot", 0), "margin_match": ("spot", 0),
        },
    ),
)  # fmt: skip


# -- KuCoin's contracts: another host with the same keys, its own orders, wallet and limits -------------------------------

# What its linear contracts are settled in.
_SETTLED_IN = ("USDT", "USDC")


def _contracts_order_params(ticket: OrderTicket, sent_ms: int) -> dict[str, Any]:
    return contracts_params(ticket)


def _whole_contracts(quantity: Decimal) -> int:
    if quantity != quantity.to_integral_value():
        raise ValueError(f"wanted a whole number of contracts, was {quantity}")
    return int(quantity)


def _contracts_key_rights(ccxt: Any) -> KeyRights:
    answer = ccxt.privateGetUserApiKey()["data"]
    rights = {right.strip() for right in answer["permission"].split(",")}
    addresses = answer.get("ipWhitelist")
    return KeyRights("Futures" in rights, "Transfer" in rights, None if addresses is None else bool(addresses))


def _contracts_symbols_open(ccxt: Any) -> list[str]:
    # By their names, for a market that nobody has told ccxt of is open here as well: XBTUSDTM is BTC/USDT:USDT.
    rows = ccxt.futuresPrivateGetOrders({"status": "active", "pageSize": 1000})["data"]["items"]
    names = {str(row["symbol"]).removesuffix("M") for row in rows}
    return sorted(
        f"{ccxt.safe_currency_code(name.removesuffix(settled))}/{settled}:{settled}"
        for name in names
        for settled in _SETTLED_IN
        if name.endswith(settled)
    )


def _contracts_balances(ccxt: Any) -> list[BalanceReport]:
    # ccxt's total is the equity, with what open positions gain and lose in it: that follows the price, the wallet does not.
    overviews = [ccxt.futuresPrivateGetAccountOverview({"currency": currency})["data"] for currency in _SETTLED_IN]
    return [
        BalanceReport(row["currency"], to_decimal(row["marginBalance"]), to_decimal(row["availableBalance"]))
        for row in overviews
    ]


_KUCOIN_FUTURES = Venue(
    options={
        "uta": False,
        "fetchMarkets": {"types": ["swap"], "fetchTickersFees": False},
        # Bid and ask of all contracts in one request; ccxt's own choice has no bid.
        "fetchTickers": {"method": "futuresPublicGetAllTickers"},
    },
    path_prefixes={"futuresPublic": "/_futures", "futuresPrivate": "/_futures"},
    order_params=_contracts_order_params,
    # Its orders know no deadline of their own, but no request is taken whose signature is older than five seconds.
    refuses_late_requests=True,
    is_signed_at_claim=True,
    finds_by_client_id=True,
    rejected=frozenset(
        {
            "200001",  # no orders on this contract now
            "300003",  # not enough margin
            "300009",  # nothing to close
            *("300011", "300012"),  # beyond the price limits
            *("330005", "330012"),  # margin mode, position mode: not as the account has them
            "330008",  # beyond what margin and leverage allow
            *("400303", "400500", "400600"),
        }
    ),
    refused_key=_KUCOIN.refused_key,
    not_looked_at=_KUCOIN.not_looked_at,
    about_status=frozenset({"200001"}),
    about_market=frozenset({"400600"}),
    # 100001 alone says that any parameter is wrong. 100004 is the answer to a cancellation that comes too late.
    not_found=frozenset({"100001:error.getOrder.orderNotExist", "100004"}),
    is_answer=_is_kucoin_answer,
    retry_headers=_KUCOIN.retry_headers,
    done_lists=("fetchClosedOrders",),
    history=partial(walk_by_page, size=1000, span_ms=WEEK_MS),
    fundings=partial(walk_backward, size=100),
    fills_page=1000,
    # Numbered pages: where one is full, the history since the order was made has them all.
    fills_next=lambda page: {},
    page_size="pageSize",
    open_params={"pageSize": 1000},
    candles_at_most=200,
    no_paper="an exchange of spot markets for a paper account: the paper books know no margin, was {name}",
    amount=_whole_contracts,
    status=_kucoin_status,
    key_rights=_contracts_key_rights,
    symbols_open=_contracts_symbols_open,
    stops=KUCOIN_FUTURES_STOPS,
    margin=contracts_margin,
    other_margin=frozenset({"330005"}),
    balances=_contracts_balances,
    # For an ordinary account (VIP 0).
    allowance=Allowance(
        pools={PUBLIC: Pool(2000, 30), "futures": Pool(2000, 30), "management": Pool(2000, 30)},
        calls={
            "time": (PUBLIC, 2), "status": (PUBLIC, 4), "markets": (PUBLIC, 6), "quotes": (PUBLIC, 5),
            "candles": (PUBLIC, 3), "trades_since": (PUBLIC, 5), "funding_rates_since": (PUBLIC, 5),
            "order_create": ("futures", 2), "order_cancel": ("futures", 1), "order_find": ("futures", 5),
            "order_get": ("futures", 5), "order_fills": ("futures", 5), "orders_open": ("futures", 2),
            "symbols_open": ("futures", 2), "orders_done": ("futures", 4), "fills_since": ("futures", 10),
            "stop_find": ("futures", 5), "stops_open": ("futures", 6), "stop_cancel": ("futures", 1),
            "balances": ("futures", 10), "positions": ("futures", 2), "fundings_since": ("futures", 10),
            "key_rights": ("management", 20), "margin_match": ("futures", 6),
        },
    ),
)  # fmt: skip


# -- Binance ------------------------------------------------------------------------------------------------------------


def _binance_order_params(ticket: OrderTicket, sent_ms: int) -> dict[str, Any]:
    # The timestamp is the claim's, not that of the signature: recvWindow then ends when our own deadline does.
    return {"newClientOrderId": ticket.client_order_id, "timestamp": sent_ms, "recvWindow": ticket.window_ms}


def _binance_fills_after(page: Sequence[Row]) -> dict[str, Any]:
    return {"fromId": max(int(row["id"]) for row in page) + 1}


def _binance_key_rights(ccxt: Any) -> KeyRights:
    answer = ccxt.sapiGetAccountApiRestrictions()
    return KeyRights(answer["enableSpotAndMarginTrading"], answer["enableWithdrawals"], answer["ipRestrict"])


def _binance_symbols_open(ccxt: Any) -> list[str]:
    ids = {row["symbol"] for row in ccxt.privateGetOpenOrders()}
    return [str(ccxt.safe_symbol(market_id)) for market_id in sorted(ids)]


_BINANCE = Venue(
    options={
        "defaultType": "spot",
        "fetchMarkets": {"types": ["spot"]},
        "fetchMargins": False,
        "warnOnFetchOpenOrdersWithoutSymbol": False,
    },
    order_params=_binance_order_params,
    refuses_late_requests=True,
    finds_by_client_id=True,
    rejected=frozenset(
        {
            # Malformed: illegal, missing, empty, unread or unwanted parameters; precision, time in force, type, side.
            *(
                "-1100",
                "-1101",
                "-1102",
                "-1103",
                "-1104",
                "-1105",
                "-1106",
                "-1111",
                "-1114",
                "-1115",
                "-1116",
                "-1117",
            ),
            "-1121",  # no such symbol
            *(f"-1013:{words}" for words in ("Invalid quantity.", "Invalid price.", "Market is closed.")),
            *(
                f"-1013:Filter failure: {name}"
                for name in (
                    *("PRICE_FILTER", "PERCENT_PRICE", "PERCENT_PRICE_BY_SIDE", "LOT_SIZE", "MARKET_LOT_SIZE"),
                    *("MIN_NOTIONAL", "NOTIONAL", "MAX_POSITION", "ICEBERG_PARTS", "TRAILING_DELTA"),
                    *("MAX_NUM_ORDERS", "MAX_NUM_ALGO_ORDERS", "MAX_NUM_ICEBERG_ORDERS"),
                    *("EXCHANGE_MAX_NUM_ORDERS", "EXCHANGE_MAX_NUM_ALGO_ORDERS"),
                )
            ),
            # -2010 alone is no proof: "Duplicate order sent." is said of an order that is live.
            "-2010:Account has insufficient balance for requested action.",
            "-2010:Market is closed.",
            "-2010:Price * QTY is zero or less.",
            "-2010:This symbol is not permitted for this account.",
            "-2010:This action is disabled on this account.",
            "-2010:This account may not place or cancel orders.",
            "-2010:Unsupported order combination.",
            "-2010:Market orders are not supported for this symbol.",
        }
    ),
    refused_key=frozenset({"-1002", "-1022", "-2014", "-2015"}),
    # The clock; too many requests; too many orders.
    not_looked_at=frozenset({"-1021", "-1003", "-1015"}),
    not_found=frozenset({"-2013", "-2011:Unknown order sent."}),
    # All orders of a symbol, live ones too: ccxt's list of closed ones drops what expired.
    done_lists=("fetchOrders",),
    history=partial(walk_forward, size=1000, since_name="startTime"),
    fills_page=1000,
    fills_next=_binance_fills_after,
    key_rights=_binance_key_rights,
    symbols_open=_binance_symbols_open,
    bounds_trades=True,
    allowance=Allowance(
        # Whatever an account asks counts for its address, except that orders are counted for the account too. A call draws
        # from one pool: orders from theirs, and what one account's may weigh in a minute (600) is missing from the 6000 of
        # the address.
        pools={PUBLIC: Pool(5400, 60), "orders": Pool(100, 10)},
        calls={
            # Prices weigh as those of up to 100 markets, open orders of all markets as much as such a list can.
            "time": (PUBLIC, 1), "status": (PUBLIC, 1), "markets": (PUBLIC, 20), "quotes": (PUBLIC, 40),
            "candles": (PUBLIC, 2), "trades_since": (PUBLIC, 4), "funding_rates_since": (PUBLIC, 0),
            "order_create": ("orders", 1), "order_cancel": (PUBLIC, 1), "order_find": (PUBLIC, 4), "order_get": (PUBLIC, 4),
            "order_fills": (PUBLIC, 20), "orders_open": (PUBLIC, 6), "symbols_open": (PUBLIC, 80),
            "orders_done": (PUBLIC, 40), "fills_since": (PUBLIC, 40),
            "stop_find": (PUBLIC, 4), "stops_open": (PUBLIC, 6), "stop_cancel": (PUBLIC, 1),
            "balances": (PUBLIC, 20), "key_rights": (PUBLIC, 1), "positions": (PUBLIC, 0), "fundings_since": (PUBLIC, 0),
            "margin_match": (PUBLIC, 0),
        },
    ),
)  # fmt: skip

VENUES: dict[str, Venue] = {"binance": _BINANCE, "kucoin": _KUCOIN, "kucoinfutures": _KUCOIN_FUTURES}
UNDESCRIBED = Venue()


def venue_of(ccxt_id: str) -> Venue:
    """What is known of an exchange; the defaults where nobody has described it."""
    return VENUES.get(ccxt_id, UNDESCRIBED)

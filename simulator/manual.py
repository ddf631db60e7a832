"""What ``python -m simulator --help`` says after the options: all that a user of the simulator alone need read."""

EPILOG = """\
what it is
  A fake KuCoin (spot and futures, REST and WebSocket) with exact books. Point ccxt's kucoin class at it by urls alone:

    import ccxt, requests
    B = "http://127.0.0.1:8090"
    requests.post(B + "/_sim/accounts", json={"apiKey": "k", "secret": "s", "passphrase": "p",
                                              "balances": {"USDT": "10000"}, "futures": {"USDT": "1000"}})
    api = dict.fromkeys(["public", "private", "uta", "utaV2", "utaPrivate", "earn", "broker", "webExchange"], B)
    api |= dict.fromkeys(["futuresPublic", "futuresPrivate"], B + "/_futures")
    kucoin = ccxt.kucoin({"apiKey": "k", "secret": "s", "password": "p", "urls": {"api": api},
                          "options": {"hf": True, "uta": False}})
    kucoin.create_order("BTC/USDT", "market", "buy", 0.01, params={"clientOid": "my-1"})
    kucoin.create_order("BTC/USDT:USDT", "market", "sell", 5, params={"leverage": 10})

  ccxt.pro needs no more than that, KuCoin's own SDK only its two endpoints (B and B + "/_futures").

what it serves
  Spot: symbols, tickers, depth, candles, trades; orders of the high-frequency account (market by size or funds, limit,
  GTC, GTT, IOC, FOK, post-only, stop orders, sync, test, alter, the dead man's switch) and the older /api/v1/orders, whose
  look-up by clientOid knows live orders only; fills, balances, fees, transfers. Futures under /_futures: a linear
  perpetual on every symbol in USDT or USDC (XBTUSDTM is BTC-USDT's and has its price): leverage, isolated and cross
  margin, reduce-only, closeOrder, stops, attached exits, funding at 04:00, 12:00 and 20:00 UTC, liquidation; one-way mode.
  WebSocket: POST bullet-public or bullet-private, then tickers, snapshots, candles, trades, depth (by changes or whole),
  orders, stop orders, fills, balances, wallets, positions. Signatures, timestamps, permissions, address lists and the
  codes of refusals are KuCoin's; every answer carries gw-ratelimit-limit, -remaining and -reset.

two clocks
  The market clock (--start, --speed, /_sim/clock) decides candles, prices, the times of orders and fills, and
  GET /api/v1/timestamp. The wall clock judges signatures (KC-API-TIMESTAMP within 5 s) and clientTimestamp +
  allowMaxTimeWindow. So do not let ccxt adjust its clock to the server's, and pass since/until in market time.

prices
  Synthetic: a seeded geometric random walk with calm, normal and wild half hours, the same for the same --seed, --start
  and --volatility, with 400 days of history. Or replayed from a file, or scripted by the control API. A market order pays
  --slippage (half the spread) and, when large, walks a depth of 100 levels; its trading does not move the price.

control API (JSON, under /_sim); with --control-token-env it wants "Authorization: Bearer <token>" (health does not)
  GET  health
  GET  clock     POST clock     {"speed": 60} {"stop": true} {"advance_s": 300} {"now_ms": 1700000000000}; a step ends
                 sooner with "until": {"BTC-USDT": {"below": "60000", "above": "61000"}}, when a price is first there
  POST accounts  {"apiKey", "secret", "passphrase", "balances": {"USDT": "10000"}, "futures": {"USDT": "1000"},
                  "permissions": "General,Spot,Futures", "ipWhitelist": "", "payFeesInKcs": false, "isRevoked": false}
                 opens an account or changes one; KCS pays fees at 80 %, while there is enough of it
  POST symbols   {"symbol": "SOL-USDT", "priceIncrement": "0.01", "minFunds": "5", "enableTrading": false,
                  "isDelisted": false, ...}; of a contract also multiplier, maxLeverage, maintainMargin, fundingRate
  POST market/SYMBOL/candles   {"candles": [[ms, open, high, low, close, volume], ...]}   replay these minutes; with
                               "first": "low" or "high" that extreme comes first inside each
  POST market/SYMBOL/price     {"price": "61000.5"} hold the price; {"price": null} let it move again
  POST market/SYMBOL/depth     {"quote": "50000"}   what the best price offers; level n offers n times that
  POST market/SYMBOL/gap       {"from": ms, "to": ms, "until": ms}   candles that are missing (until then)
  POST market/SYMBOL/revision  {"candles": [...], "at": ms}   candles that read otherwise from then on
  POST fills     {"clientOid" or "orderId", "size": "0.1"}   fill so much of a resting order now
  GET  oracle    [?apiKey=] [&requests=n]  every order, stop order, fill, deposit and balance, the same under "futures"
                 with positions and funding, and the latest (20,000) requests

settings         GET settings, POST settings {any of}
  duplicateClientOid  active: refused while an order with the same clientOid is live (KuCoin's documented behaviour);
                      always: refused for ever; never: never refused, the newest is found
  status              open, cancelonly or close; statusMessage says why
  cancelDelayMs       a cancel is accepted at once and takes effect so much later; it may fill before (sync: at once)
  readLagMs           reads of orders and fills show what was true so long ago
  fillRatio           so much of a resting order (0.4) fills each time its price is met; then fillPauseMs (market time)
  keepFilledS, keepCanceledS   a done order is not found any more after so many seconds (market time); null: for ever
  candleLagMs         candles show what was true so long ago
  clockOffsetMs       the clock that judges signatures and windows, and dates the answers, is ahead by so much
  enforceRateLimits   refuse with 429000 when a pool is empty (they are always counted); rateLimits {"spot": 4000, ...}
                      of weight per account and 30 s: spot, futures, management, and public per address

faults           GET faults, DELETE faults, POST faults
  {"kind": "drop", "when": "after", "method": "POST", "path": "/api/v1/hf/orders*", "clientOid": "my-1", "apiKey": "k",
   "count": 1, "skip": 0, "chance": 1}; every field but kind may be left out; "count": null never runs out
  when   before: the exchange never sees the request; after: it acts, and its answer is lost or replaced
  kind   hang (for "seconds", or until the client gives up), drop (the connection is cut), http ("status" and "body"),
         body, html, empty, truncated (half of the true answer), code ("code" and "msg" of the exchange's),
         delay ("seconds" late, otherwise as usual)
  POST stream    {"drop": true} cuts every WebSocket, {"expireTokens": true} also their tokens; for messages whose topic
                 matches "topic": {"muteS": 30} {"lose": 3} {"duplicate": 3} {"reorder": 3} {"delayMs": 500}; {} ends it
                 GET stream lists who is connected to what

state
  With --state FILE everything survives the simulator, even when it is killed: accounts, orders, fills, stop orders,
  positions, prices set by hand, settings and the clock are in FILE before an answer leaves. Started again with the same
  options it goes on from there; market time has passed meanwhile as if it had run. FILE holds the accounts' secrets
  (mode 600). Faults, tokens and the request log start anew. --start, --speed, --duplicates and --accounts count for a new
  FILE only.
"""

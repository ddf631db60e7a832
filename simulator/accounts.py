"""Opening and changing accounts, as POST /_sim/accounts and --accounts ask for."""

from __future__ import annotations

from decimal import Decimal

from simulator.books import Account, Books
from simulator.control_fields import Body, decimal_of, only, truth_of
from simulator.credentials import Credentials
from simulator.exchange import Exchange

DEFAULT_PERMISSIONS = "General,Spot,Futures"
_FIELDS = (
    *("apiKey", "secret", "passphrase", "balances", "futures"),
    *("permissions", "ipWhitelist", "payFeesInKcs", "isRevoked"),
)


def account_set(exchange: Exchange, body: Body) -> Account:
    """Open the account that ``body`` describes, or change an existing one (then secret and passphrase may be left out).

    Balances, of the spot wallet and of the futures wallet, are set to what is given; the difference is a deposit.
    """
    only(body, _FIELDS)
    books, now_ms = exchange.books, exchange.advance()
    key = body.get("apiKey")
    account = books.accounts.get(key) if isinstance(key, str) else None
    names = ("apiKey",) if account is not None and not {"secret", "passphrase"} & set(body) else _FIELDS[:3]
    for name in names:
        if not isinstance(body.get(name), str) or not body[name]:
            raise ValueError(f"wanted {name} as text")  # its value is not repeated: it may be a secret
    for name in ("permissions", "ipWhitelist"):
        if not isinstance(body.get(name, ""), str):
            raise ValueError('wanted permissions and ipWhitelist as text, such as "General,Spot" and "127.0.0.1"')
    spot, futures = _amounts(body, "balances"), _amounts(body, "futures")
    pays_in_kcs, is_revoked = truth_of(body, "payFeesInKcs"), truth_of(body, "isRevoked")
    for currency, amount in spot.items():
        if amount < (account.balance(currency).holds if account else 0):
            raise ValueError(f"wanted a balance of {currency} that covers what is held, was {amount}")
    if account is None:
        credentials = Credentials(body["secret"], body["passphrase"])
        uid = 10_000_000 + len(books.accounts)
        account = books.accounts[body["apiKey"]] = Account(
            uid, body["apiKey"], credentials, DEFAULT_PERMISSIONS, "", now_ms
        )
    elif "secret" in body:
        account.credentials = Credentials(body["secret"], body["passphrase"])
    account.permissions = body.get("permissions", account.permissions)
    account.ip_whitelist = body.get("ipWhitelist", account.ip_whitelist)
    account.pays_fees_in_kcs = account.pays_fees_in_kcs if pays_in_kcs is None else pays_in_kcs
    account.is_revoked = account.is_revoked if is_revoked is None else is_revoked
    books.note(account)
    _deposit(books, account, spot, now_ms)
    if futures:
        _deposit(exchange.futures.books, exchange.futures.books.account_of(account), futures, now_ms)
    return account


def _amounts(body: Body, name: str) -> dict[str, Decimal]:
    balances = body.get(name, {})
    if not isinstance(balances, dict):
        raise ValueError(f'wanted {name} such as {{"USDT": "10000"}}, was {balances!r}')
    amounts = {currency: decimal_of(balances, currency) or Decimal(0) for currency in balances}
    if any(amount < 0 for amount in amounts.values()):
        raise ValueError(f"wanted {name} that are not negative, was {balances!r}")
    return amounts


def _deposit(books: Books, account: Account, amounts: dict[str, Decimal], now_ms: int) -> None:
    for currency, amount in amounts.items():
        difference = amount - account.balance(currency).total
        if difference:
            books.deposit(account, currency, difference, now_ms)

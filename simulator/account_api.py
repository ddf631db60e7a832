"""KuCoin's private endpoints about the account: its key, its wallets, its fees, transfers between its wallets."""

from __future__ import annotations

from typing import Any

from simulator.api import GENERAL, Call, Routes, positive_field, routes_of, text_field
from simulator.exchange import Exchange
from simulator.refusals import Refused
from simulator.rules import text

TRANSFER = "InnerTransfer"
_SPOT_WALLETS = ("trade", "trade_hf")


class AccountApi:
    """Answers to the owner of a key about the account itself."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def routes(self) -> Routes:
        management = {
            "/api/ua/v1/account/mode": (self._account_mode, 5),
            "/api/v1/user/api-key": (self._api_key, 20),
            "/api/v1/accounts": (self._accounts, 5),
        }
        spot = {
            "/api/v1/hf/accounts/opened": (self._hf_opened, 2),
            "/api/v1/trade-fees": (self._trade_fees, 3),
        }
        transfers = {
            "/api/v3/accounts/universal-transfer": (self._universal_transfer, 4),
            "/api/v2/accounts/inner-transfer": (self._inner_transfer, 10),
        }
        return {
            **routes_of("GET", management, GENERAL, "management"),
            **routes_of("GET", spot, GENERAL, "spot"),
            **routes_of("POST", transfers, TRANSFER, "management"),
        }

    def _account_mode(self, call: Call) -> dict[str, Any]:
        return {"selfAccountMode": "CLASSIC", "subAccountModes": []}

    def _hf_opened(self, call: Call) -> bool:
        return True

    def _api_key(self, call: Call) -> dict[str, Any]:
        account = call.owner
        return {
            "remark": "simulated",
            "apiKey": account.api_key,
            "apiVersion": 3,
            "permission": account.permissions,
            "ipWhitelist": account.ip_whitelist,
            "createdAt": account.created_at_ms,
            "uid": account.uid,
            "isMaster": True,
        }

    def _trade_fees(self, call: Call) -> list[dict[str, str]]:
        fees = []
        for symbol in call.param("symbols").split(","):
            listing = self._exchange.market.listings.get(symbol)
            if listing is None:
                raise Refused("900001", "symbol not exists")
            taker, maker = text(listing.rules.taker_fee), text(listing.rules.maker_fee)
            fees.append({"symbol": symbol, "takerFeeRate": taker, "makerFeeRate": maker})
        return fees

    def _accounts(self, call: Call) -> list[dict[str, str]]:
        """One wallet, shown as whichever trading account was asked for; the main account is empty."""
        wanted = call.query.get("type") or "trade_hf"
        if wanted not in _SPOT_WALLETS:
            return []
        account, currency = call.owner, call.query.get("currency")
        return [
            {"id": f"{account.uid}{number:04d}", "currency": name, "type": wanted, **balance.wire()}
            for number, (name, balance) in enumerate(account.balances.items())
            if currency in (None, "", name)
        ]

    def _universal_transfer(self, call: Call) -> dict[str, Any]:
        return self._transfer(call, "fromAccountType", "toAccountType")

    def _inner_transfer(self, call: Call) -> dict[str, Any]:
        return self._transfer(call, "from", "to")

    def _transfer(self, call: Call, *ends: str) -> dict[str, Any]:
        """Between the spot wallet and the futures wallet of one account."""
        body, owner = call.body, call.owner
        currency, amount = text_field(body, "currency") or "", positive_field(body, "amount")
        source, target = (_wallet(text_field(body, name)) for name in ends)
        if amount is None or not currency or source == target:
            raise Refused("400100", "currency, amount and two different accounts are required")
        futures = self._exchange.futures.books
        wallet = futures.account_of(owner)
        free = owner.balance(currency).available if source == "spot" else wallet.funds(currency, call.now_ms)[0]
        if amount > free:
            raise Refused("230003", "Balance insufficient!")
        moved = amount if source == "spot" else -amount
        self._exchange.books.deposit(owner, currency, -moved, call.now_ms)
        futures.deposit(wallet, currency, moved, call.now_ms)
        return {"orderId": self._exchange.books.order_id(self._exchange.books.next_number())}


def _wallet(kind: str | None) -> str:
    kind = (kind or "").lower()
    if kind in _SPOT_WALLETS:
        return "spot"
    if kind == "contract":
        return "futures"
    raise Refused("400100", "wanted accounts TRADE, TRADE_HF or CONTRACT")

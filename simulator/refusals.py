"""The exchange's "no": a code and a message of KuCoin's, raised wherever a rule is broken."""

from __future__ import annotations


class Refused(Exception):
    """The exchange says no, with a code and a message of KuCoin's."""

    def __init__(self, code: str, message: str, http_status: int = 200) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message
        self.http_status = http_status

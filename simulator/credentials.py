"""What a request's signature is checked against, kept where nothing shows it."""

from __future__ import annotations

import base64
import hashlib
import hmac


class Credentials:
    """What a signature is checked against. Shows nothing of it: not in repr, not in an answer."""

    __slots__ = ("_passphrase", "_passphrases", "_secret")

    def __init__(self, secret: str, passphrase: str) -> None:
        self._secret = secret.encode()
        self._passphrase = passphrase
        signed = self._signature(passphrase.encode())
        self._passphrases = {"1": passphrase.encode(), "2": signed, "3": signed}

    def __repr__(self) -> str:
        return "Credentials(hidden)"

    def kept(self) -> tuple[str, str]:
        """What a new one is made from: for the state file alone, which must know it to check signatures again."""
        return self._secret.decode(), self._passphrase

    def passphrase_matches(self, given: str, version: str) -> bool:
        wanted = self._passphrases.get(version)
        return wanted is not None and hmac.compare_digest(wanted, given.encode(errors="surrogateescape"))

    def signature_matches(self, given: str, message: bytes) -> bool:
        return hmac.compare_digest(self._signature(message), given.encode(errors="surrogateescape"))

    def _signature(self, message: bytes) -> bytes:
        return base64.b64encode(hmac.digest(self._secret, message, hashlib.sha256))

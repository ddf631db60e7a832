"""Exchange keys at rest: encrypted with the first of ``R3EDGE_ENCRYPTION_KEYS``, readable with any of them.

Write-only everywhere: no form, API answer, log or repr shows them again. Only a gateway asks for ``reveal()``.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NoReturn

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import models

# What is shorter is no secret, and would be found in any text.
SHORTEST_HIDDEN = 6


class UnableToDecrypt(Exception):
    """None of the configured encryption keys opens these credentials; the key that wrote them is needed."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What signs requests in the name of an account."""

    api_key: str = field(repr=False)
    secret: str = field(repr=False)
    passphrase: str = field(default="", repr=False)

    @property
    def hint(self) -> str:
        """Enough of the key to recognise it by."""
        return f"…{self.api_key[-4:]}" if self.api_key else ""

    def hide(self, text: str) -> str:
        """``text`` without these: a venue, or an error that names an address, may repeat what it was given."""
        for word in (self.secret, self.passphrase, self.api_key):
            if len(word) >= SHORTEST_HIDDEN:
                text = text.replace(word, "…")
        return text

    def __reduce__(self) -> NoReturn:
        # A pickle is text on its way to somewhere.
        raise TypeError("wanted sealed credentials: those in the clear are not pickled or copied")


@lru_cache(maxsize=4)
def _cipher(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def seal(credentials: Credentials) -> bytes:
    """Encrypt for the database."""
    text = json.dumps([credentials.api_key, credentials.secret, credentials.passphrase])
    return _cipher(settings.ENCRYPTION_KEYS).encrypt(text.encode())


def unseal(token: bytes) -> Credentials:
    """Decrypt; raises UnableToDecrypt when no configured key fits."""
    try:
        return Credentials(*json.loads(_cipher(settings.ENCRYPTION_KEYS).decrypt(token)))
    except InvalidToken as error:
        raise UnableToDecrypt("no key in R3EDGE_ENCRYPTION_KEYS opens these credentials") from error


class CredentialsField(models.BinaryField):  # type: ignore[type-arg]
    """Holds sealed credentials; assign ``Credentials``, read back ``SealedCredentials``."""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> SealedCredentials | None:
        return None if value is None else SealedCredentials(bytes(value))

    def get_prep_value(self, value: Any) -> Any:
        if isinstance(value, Credentials):
            return seal(value)
        return value.token if isinstance(value, SealedCredentials) else value

    def value_to_string(self, obj: Any) -> str:
        return b64encode(self.get_prep_value(self.value_from_object(obj))).decode()


class SealedCredentials:
    """Credentials as they lie in the database: nothing about them shows until ``reveal()``."""

    __slots__ = ("token",)

    def __init__(self, token: bytes) -> None:
        self.token = token

    def __repr__(self) -> str:
        return "<sealed credentials>"

    def reveal(self) -> Credentials:
        """The credentials in the clear, for a gateway only."""
        return unseal(self.token)

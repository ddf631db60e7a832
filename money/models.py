"""The decision log: what each order was valued on, and the verdict."""

from __future__ import annotations

from django.db import models

from domain.orders import Denial
from orders.models import Order
from pipeline.fields import ExactField


class Valuation(models.Model):
    """Why an order got its quantity, or none: the facts of that moment, under the account's lock."""

    order = models.OneToOneField(Order, on_delete=models.CASCADE, related_name="valuation")
    verdict = models.CharField(max_length=20, help_text="APPROVED, or the code of the denial.")
    price = ExactField(null=True, help_text="Expected entry price.")
    equity = ExactField(null=True)
    free_balance = ExactField(null=True)
    exposure = ExactField(null=True, help_text="Of the account before this order.")
    open_positions = models.PositiveIntegerField(null=True)
    wanted = ExactField(null=True, help_text="Notional the sizing method asked for.")
    capped = ExactField(null=True, help_text="Notional after every cap.")
    quantity = ExactField(null=True)
    decided_at = models.DateTimeField(auto_now_add=True)

    APPROVED = "APPROVED"

    def __str__(self) -> str:
        return f"{self.order_id}: {self.verdict}"

    @property
    def is_approved(self) -> bool:
        return self.verdict == self.APPROVED

    @staticmethod
    def verdicts() -> list[str]:
        """Every verdict there is."""
        return [Valuation.APPROVED, *(denial.value for denial in Denial)]

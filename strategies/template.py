"""What a new strategy begins as: a commented file that passes every check, to be changed line by line."""

from __future__ import annotations

TEMPLATE = '''"""{title}: buy when the close overtakes its average, leave when it falls back below.

Say here when it wins, and when it loses: traders read this text before they choose it.
"""

from __future__ import annotations

from pydantic import Field

from domain.candles import Candles
from domain.catalogue import indicator_of
from domain.indicators import crossed_above
from domain.strategy import Line, Parameters, Role, SignalArrays, Strategy


class {kind}Parameters(Parameters):
    """What a trader can set. Bounds and words become the form, the API's schema and what an optimiser tries."""

    # stop_loss_percent and take_profit_percent are there already.
    period: int = Field(default=20, ge=2, le=500, title="Average", description="Candles in the average.")


class {kind}(Strategy[{kind}Parameters]):
    name = "{name}"  # configurations store it: it cannot change afterwards
    title = "{title}"
    parameters_type = {kind}Parameters

    @property
    def warm_up(self) -> int:
        # How many closed candles it needs to say the same as with all of history: those of the average, and the candle
        # before, by which it is seen to cross. For averages that never forget: ema_settles, wilder_settles.
        return self.parameters.period + 1

    @property
    def chart(self) -> tuple[Line, ...]:
        # The lines to draw beside the candles.
        return (Line(Role.SLOW, "sma", "sma", {{"period": self.parameters.period}}),)

    def signals(self, candles: Candles) -> SignalArrays:
        # Arrays as long as the candles. The value at i may use candles up to i, never a later one: no shift to the left, no
        # mean or maximum of everything. Of further markets and timeframes: signals_with, and others.align.
        average = indicator_of(candles, "sma", period=self.parameters.period)["sma"]
        up, down = crossed_above(candles.close, average), crossed_above(average, candles.close)
        # Entries of 1 (-1: short), exits of 1; stops=, targets= and confidence= go with the entries.
        return SignalArrays.of_turns(up, down)
'''


def template_of(name: str) -> str:
    """The file of a new strategy ``name``."""
    words = name.split("_")
    return TEMPLATE.format(
        name=name, title=" ".join(words).capitalize(), kind="".join(word.capitalize() for word in words)
    )

"""What a study is asked for beside a backtest's words, by its kind: checked word by word, and written down in full. Pure: no
Django.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from backtesting.research.monte_carlo import Blocks, MonteCarlo
from backtesting.research.walk_forward import Length
from backtesting.words import WrongWords, complaint


class NoWords(BaseModel):
    """A search over the whole span asks for nothing more."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WalkForwardWords(BaseModel):
    """How long is trained and how long is tested: so many candles, or days such as 90d."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: str = Field(description="On so many candles, or days such as 90d, parameters are chosen.")
    test: str = Field(description="On so many after those they are judged.")
    is_anchored: bool = Field(False, description="Every training begins with the first candle.")

    @field_validator("train", "test")
    @classmethod
    def _is_length(cls, text: str) -> str:
        return str(Length.of(text))


class MonteCarloWords(BaseModel):
    """What is left to luck, and how often."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ways: tuple[MonteCarlo, ...] = Field(
        (MonteCarlo.TRADE_SHUFFLE, MonteCarlo.TRADE_BOOTSTRAP, MonteCarlo.BLOCK_BOOTSTRAP), min_length=1,
        description="Trades in another order, or drawn again; returns drawn in blocks; neighbours of the parameters, and "
        "noise on the prices, which are backtests of their own.",
    )  # fmt: skip
    paths: int = Field(1000, ge=10, le=10_000, description="Drawn of what there is.")
    reruns: int = Field(100, ge=10, le=2_000, description="Backtests, of each way that is made of them.")
    reach: int = Field(1, ge=1, le=10, description="Steps that a parameter moves at most.")
    noise: float = Field(0.1, gt=0, le=1, description="Of a candle's range: the deviation of each of its prices.")
    block_kind: Blocks = Field(Blocks.STATIONARY, description="How blocks of returns are drawn.")
    block: float | None = Field(
        None, ge=1, le=100_000, description="Their length; none: by the rule of Politis and White."
    )
    ruin_at: float = Field(0.5, gt=0, lt=1, description="A fall from the peak that counts as ruin.")

    @field_validator("ways")
    @classmethod
    def _once(cls, ways: tuple[MonteCarlo, ...]) -> tuple[MonteCarlo, ...]:
        return tuple(dict.fromkeys(ways))

    @property
    def rerun(self) -> tuple[MonteCarlo, ...]:
        """The ways that take backtests of their own."""
        return tuple(one for one in self.ways if one in RERUN)


def objective_words(name: str) -> str:
    """What an objective is called in a sentence."""
    return OBJECTIVE_WORDS.get(name) or name.replace("_", " ")


OBJECTIVE_WORDS = {
    "sharpe": "Sharpe ratio", "sortino": "Sortino ratio", "calmar": "Calmar ratio", "cagr": "yearly return", "sqn": "SQN",
}  # fmt: skip
RERUN = (MonteCarlo.PARAMETER_JITTER, MonteCarlo.PRICE_NOISE)

OptionWords = NoWords | WalkForwardWords | MonteCarloWords
WORDS: dict[str, type[NoWords] | type[WalkForwardWords] | type[MonteCarloWords]] = {
    "OPTIMISE": NoWords,
    "WALK_FORWARD": WalkForwardWords,
    "MONTE_CARLO": MonteCarloWords,
}


def options_said(kind: str, words: Any) -> Any:
    """The options of a study of ``kind`` (OptionWords). Raises WrongWords."""
    if not isinstance(words, dict):
        raise WrongWords({"options": [f"wanted an object, was {type(words).__name__}"]})
    try:
        return WORDS[kind].model_validate(words)
    except ValidationError as error:
        known = WORDS[kind].model_fields
        raise WrongWords({"options": [complaint(one, known) for one in error.errors()]}) from error

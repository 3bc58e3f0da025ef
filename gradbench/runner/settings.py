"""How much a run measures, and how closely: its settings, and the profiles that set them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from msgspec import Meta

from gradbench.core.cases import Selection
from gradbench.core.families import APPLICATIONS
from gradbench.core.instruments import WALL_TIME
from gradbench.statistics import Stopping
from gradbench.store.fields import Amount, Bytes, Positive

BASELINE_PATIENCE = 10
"""The baseline may be slower than `Settings.patience` by this factor."""

LIMIT_SHARE = 0.8
"""The part of the time for the checks of a mode after which they end by themselves; later, their
process is ended."""


@dataclass(frozen=True)
class Settings:
    """How a run measures. Times in seconds."""

    sessions: Annotated[int, Meta(ge=1, le=10_000)] = 5
    stopping: Stopping = field(default_factory=Stopping)
    warm: Amount = 0.05
    timeout: Positive = 60.0
    compile_timeout: Positive = 300.0
    seed: int = 0
    memory_limit: Bytes = 4 << 30
    """Bytes beyond which a case is refused, by estimate."""
    baseline: str = ""
    """The mode to form ratios against; empty: the usual choice of each operator."""
    instruments: tuple[str, ...] = (WALL_TIME,)
    total: Amount = 0.0
    """Seconds for the whole run, into which sessions and visits are fitted. 0: no limit."""
    patience: Amount = 0.0
    """Seconds beyond which one call of a mode is too slow, and the mode refused. 0: no limit."""
    enough: Amount = 0.0
    """Seconds after which no further session begins, if there are three: see `runner.sparing`."""

    def preparing(self, compiles: bool) -> float:
        """Seconds for preparing a mode."""
        return self.compile_timeout if compiles else self.timeout


@dataclass(frozen=True)
class Profile:
    """How much is measured, and how closely."""

    summary: str
    sweep: str
    settings: Settings
    dtypes: tuple[str, ...] = ()
    families: tuple[str, ...] = ()

    def swept(self, selection: Selection) -> Selection:
        """What is selected, with the profile's sizes, and its dtypes and families without any."""
        return replace(
            selection,
            sweep=self.sweep,
            dtypes=selection.dtypes or self.dtypes,
            families=selection.families or self.families,
        )


PROFILES = {
    "quick": Profile(
        "small example inputs, 4 to 56 rounds in 5 processes: minutes",
        "documents",
        Settings(
            sessions=5,
            warm=0.001,
            stopping=Stopping(min_rounds=4, max_rounds=56, half_width=0.005, budget=0.35),
        ),
    ),
    "standard": Profile(
        "example inputs and larger ones, 16 to 400 rounds in 5 processes: an hour or two",
        "standard",
        Settings(
            sessions=5,
            warm=0.005,
            stopping=Stopping(budget=2.5),
            patience=0.5,
        ),
    ),
    "full": Profile(
        "every size, float32 and float64, 10 processes: a night",
        "full",
        Settings(
            sessions=10,
            warm=0.005,
            stopping=Stopping(budget=2.5),
        ),
        dtypes=("float32", "float64"),
    ),
    "atlas": Profile(
        "the fastest mode over outputs × inputs, 1 to 4096 each, in 3 to 5 processes, about 45 min",
        "atlas",
        Settings(
            sessions=5,
            warm=0.003,
            stopping=Stopping(min_rounds=4, max_rounds=4, every=4, half_width=0.005, budget=0.25),
            patience=0.03,
            enough=45 * 60,
        ),
    ),
    "applications": Profile(
        "the family applications, to sizes of a second a call, in 3 processes: hours",
        "full",
        Settings(
            sessions=3,
            warm=0.003,
            stopping=Stopping(min_rounds=4, max_rounds=4, every=4, half_width=0.005, budget=2.0),
            patience=0.5,
        ),
        families=(APPLICATIONS,),
    ),
}

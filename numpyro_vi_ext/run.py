"""A fit under way, or done: what the loop advances."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from numpyro_vi_ext.algorithm import Point, State
from numpyro_vi_ext.batching.supply import Supply
from numpyro_vi_ext.chunk import NEVER, Chunk
from numpyro_vi_ext.history import History
from numpyro_vi_ext.watch import Watch


class Prepared(NamedTuple):
    """What comes of the work before the first step."""

    chunk: Chunk
    state: State
    warmup: str
    optima: tuple[float, ...] = ()


@dataclasses.dataclass
class Run:
    """A fit under way, or done: what `train` advances.

    Parameters
    ----------
    chunk : Chunk
        The compiled steps.
    state : State
        Where the fit stands; always finite.
    supply : Supply
        Data of the model.
    score : bool
        Whether losses are recorded.
    pending : callable or None
        What is still to be done before the first step: is given a function that reports, and tells
        whether to give up; returns None if it did.
    optima : tuple of float
        ELBO that each of several starts came to, if there were several.
    warmup : str
        What was done before the first step, in words.
    watch : Watch
        What is seen of it.
    motion : str
        Whether it still moved when it ended: see `Seen`.
    history : History
        Losses since the first step of this fit.
    status : str
        How the last call of `train` ended: "finished", "converged", "stopped", "interrupted" or
        "non-finite".
    message : str
        The same in words.
    """

    chunk: Chunk
    state: State
    supply: Supply
    score: bool
    watch: Watch
    pending: Callable[[Callable[[str], bool]], Prepared | None] | None = None
    optima: tuple[float, ...] = ()
    warmup: str = ""
    motion: str = ""
    history: History = dataclasses.field(default_factory=History)
    status: str = "initialized"
    message: str = ""
    last: float = math.nan  # the last loss, recorded or not

    @property
    def step(self) -> int:
        """Steps taken."""
        return int(self.state.step)

    def prepare(self, report: Callable[[str], bool]) -> None:
        """Do what is to be done before the first step, unless it was done."""
        found = self.pending and self.pending(report)
        if found:
            self.chunk, self.state, self.warmup, self.optima = found
            self.pending = None

    def advance(self, end: int, every: int) -> tuple[Point, bool]:
        """Take steps up to step `end`; at a non-finite one, stay at the last finite state.

        Their data must have been prepared.

        Returns
        -------
        snapshots : Point
            Results at the multiples of `every` passed, stacked.
        finite : bool
            Whether all went well.
        """
        begin = self.state
        state, losses, snapshots, finite = self.chunk(begin, self.supply.inputs, end, every)
        if not finite:
            good = self._last_finite(begin, int(state.step))
            losses = losses[: good - int(begin.step)]
            state = self.chunk(begin, self.supply.inputs, good, NEVER)[0]
        if self.score:
            self.history.extend(losses)
        self.last = float(losses[-1]) if len(losses) else self.last
        self.state = state  # last: if Ctrl-C comes in between, the history is the one too long
        return snapshots, finite

    def rewind(self, begin: State, step: int) -> None:
        """Go back to `step`, recomputed from an earlier state."""
        if step < self.step:
            self.state = self.chunk(begin, self.supply.inputs, step, NEVER)[0]
        self.history.cut(step)
        self.watch.rewind(step)

    @property
    def losses(self) -> np.ndarray | None:
        """Losses so far, where they are recorded."""
        return self.history.view() if self.score else None

    def _last_finite(self, begin: State, bad: int) -> int:
        """The last step before the `bad` one whose state is finite; by bisection.

        A chunk stops at the first loss that is not finite, or one too many of them: `bad` is never
        beyond it.
        """
        low = int(begin.step)
        while bad - low > 1:
            middle = (low + bad) // 2
            finite = self.chunk(begin, self.supply.inputs, middle, NEVER)[3]
            low, bad = (middle, bad) if finite else (low, middle)
        return low

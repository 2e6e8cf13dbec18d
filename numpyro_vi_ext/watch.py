"""What is seen of a fit from outside: whether it has come to rest, or how fast it still moves."""

import math
from typing import NamedTuple

import numpy as np

from numpyro_vi_ext.algorithm import State, result_of
from numpyro_vi_ext.convergence import (
    FIRST_MARK,
    LEAST_STEPS,
    TOLERANCE,
    Mark,
    Motion,
    kept,
    motion,
)
from numpyro_vi_ext.layout import Layout
from numpyro_vi_ext.plateau import Losses, Plateau

_NOTHING_MOVES = "nothing in it moved by more than 0.1 sd while the steps doubled"
_LOSS_IS_FLAT = "its loss is flat"
_LEAST_SEEN = 4 * FIRST_MARK  # steps before which nothing is said


class Seen(NamedTuple):
    """A fit at one step.

    Parameters
    ----------
    motion : str
        "settled", "moving", or "" if that cannot be told.
    sentence : str
        How fast it still moves, if it does.
    """

    motion: str
    sentence: str = ""


class Watch:
    """Looks at a fit at the marks of a geometric grid of steps.

    Parameters
    ----------
    layout : Layout
        Names of what moves.
    by_result : bool
        Whether to go by the path of the result, which must have no noise of its own: that of
        averaged iterates, or of particles. Otherwise by the losses alone.
    """

    def __init__(self, layout: Layout, by_result: bool) -> None:
        self._layout, self._by_result = layout, by_result
        self._trail: list[Mark] = []
        self._losses, self._plateau = Losses(), Plateau(min_steps=LEAST_STEPS)

    @property
    def settled(self) -> str:
        """What it means that a fit has come to rest."""
        return _NOTHING_MOVES if self._by_result else _LOSS_IS_FLAT

    def rewind(self, step: int) -> None:
        """Forget what was seen beyond a step."""
        self._trail = [mark for mark in self._trail if mark[0] <= step]
        self._losses, self._plateau = Losses(), Plateau(min_steps=LEAST_STEPS)

    def look(self, step: int, state: State, losses: np.ndarray | None) -> bool:
        """Look at the fit at a mark; whether it has come to rest."""
        if not self._by_result:
            return losses is not None and self._plateau.reached(losses)
        self._trail = kept([*self._trail, self._mark(step, state)])
        return motion(self._trail, self._read(losses)).settled

    def judge(self, step: int, state: State, losses: np.ndarray | None) -> Seen:
        """What to say of the fit if it ends at this step."""
        if step < _LEAST_SEEN:
            return Seen("")
        if not self._by_result:
            return self._judge_losses(losses)
        trail = self._trail
        if not trail or trail[-1][0] < step:
            trail = [*trail, self._mark(step, state)]
        found = motion(trail, self._read(losses))
        if found.settled:
            return Seen("settled")
        if math.isinf(found.speed) or (found.speed <= TOLERANCE and step < LEAST_STEPS):
            return Seen("")
        return Seen("moving", self._describe(found))

    def _describe(self, found: Motion) -> str:
        site = self._layout.sites_at(np.arange(self._layout.ndim) == found.where)[0]
        what, how = f"the mean of {site!r}", f"by {found.speed:.2g} sd"
        if found.of_scale:
            what, how = f"the sd of {site!r}", f"by a factor of {math.exp(found.speed):.2g}"
        return (
            f"The fit was still moving: {what} moved {how} while the steps doubled for the last "
            "time. Refine it, or fit with n='auto'."
        )

    def _judge_losses(self, losses: np.ndarray | None) -> Seen:
        seen = self._read(losses)
        if seen is None or not seen.steps:
            return Seen("")
        if seen.is_falling():
            return Seen("moving", "The fit was still moving: its loss was falling. Refine it.")
        return Seen("settled" if seen.is_flat() else "")

    def _read(self, losses: np.ndarray | None) -> Losses | None:
        if losses is None:
            return None
        self._losses.update(losses)
        return self._losses

    def _mark(self, step: int, state: State) -> Mark:
        q = result_of(state).q
        return step, q.mean(), q.std()

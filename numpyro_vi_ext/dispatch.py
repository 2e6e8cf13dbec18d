"""Which callbacks are due at which step."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.chunk import NEVER

Callback = Callable[[Any, Any, int], Any]


class Callbacks:
    """Callbacks of a fit, called in their order at the steps each of them asks for.

    Parameters
    ----------
    callbacks : iterable of callables
        Each is called as ``callback(approx, losses, i)``. An integer attribute ``every`` restricts
        it to multiples; a true attribute ``also_first`` adds step 1.

    Raises
    ------
    TypeError
        If one is a class or not callable, or its ``every`` is not an int.
    ValueError
        If its ``every`` is less than 1.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        if callable(callbacks) or not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks must be a list of callables, got {callbacks!r}")
        self._calls = [
            (callback, _every(callback), bool(getattr(callback, "also_first", False)))
            for callback in callbacks
        ]
        self.every: int = min(NEVER, math.gcd(*(every for _, every, _ in self._calls)) or NEVER)
        self.at_first: bool = any(first for _, _, first in self._calls)

    def __bool__(self) -> bool:
        return bool(self._calls)

    def due(self, i: int) -> bool:
        """Whether any is called at step `i`."""
        return any(i % every == 0 or (first and i == 1) for _, every, first in self._calls)

    def __call__(self, approx: Any, losses: Any, i: int) -> None:
        """Call those that are due at step `i`."""
        for callback, every, first in self._calls:
            if i % every == 0 or (first and i == 1):
                callback(approx, losses, i)


def _every(callback: Callback) -> int:
    if not callable(callback):
        raise TypeError(f"callbacks must be callable, got {type(callback).__name__}: {callback!r}")
    if isinstance(callback, type):
        name = callback.__name__
        raise TypeError(f"callbacks must be objects, got the class {name}: make one, as {name}()")
    return as_count(getattr(callback, "every", 1), f"every of the callback {callback!r}", 1)

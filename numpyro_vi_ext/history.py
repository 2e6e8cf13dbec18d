"""The losses of a fit."""

import numpy as np

_AVERAGE_WINDOW = 1000


class History:
    """A growing array of losses whose beginnings can be handed out as views."""

    def __init__(self) -> None:
        self._buffer = np.zeros(0)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def extend(self, losses: np.ndarray) -> None:
        """Append; views handed out before keep their values."""
        size = self._size + len(losses)
        if size > len(self._buffer):
            grown = np.zeros(max(size, 2 * len(self._buffer)), losses.dtype)
            grown[: self._size] = self._buffer[: self._size]
            self._buffer = grown
        self._buffer[self._size : size] = losses
        self._size = size

    def cut(self, size: int) -> None:
        """Forget all but the first `size` losses; views handed out before keep their values."""
        self._buffer = self._buffer[:size].copy()
        self._size = min(size, self._size)

    def view(self, size: int | None = None) -> np.ndarray:
        """The first `size` losses (default: all), read-only."""
        view = self._buffer[: self._size if size is None else size]
        view.flags.writeable = False
        return view

    def average(self) -> float:
        """Mean of the finite ones among the last 1,000 losses."""
        last = self.view()[-_AVERAGE_WINDOW:]
        last = last[np.isfinite(last)]
        return float(last.mean()) if last.size else float("nan")

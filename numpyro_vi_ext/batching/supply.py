"""The data that a compiled chunk of steps runs on, put together before it starts."""

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import numpy as np

from numpyro_vi_ext.batching.batches import Batch
from numpyro_vi_ext.batching.streaming import Stream
from numpyro_vi_ext.recording import Inputs

Array = jax.Array
Origin = tuple[Stream, Any]  # and the key of a part

_ALIGNMENT = 64  # at which JAX takes over the memory of an array instead of copying it


class Supply:
    """Data for one fit and all its refines; with a Stream, other batches for each chunk.

    Parameters
    ----------
    inputs : Inputs
        What does not change from chunk to chunk.
    origins : sequence of (Stream, key) or None
        Where the batches of each data argument come from; empty if none do.
    """

    def __init__(self, inputs: Inputs, origins: Sequence[Origin | None]) -> None:
        self.inputs: Inputs = inputs  # of the last chunk
        self._origins = origins
        streams = dict.fromkeys(origin[0] for origin in origins if origin)
        self._readers = {stream: stream.reader() for stream in streams}
        self._batches: dict[Stream, list[Batch]] = {}  # of the last chunk
        self._begin = self._end = 0  # its steps
        self._positions: dict[Stream, int] = {}  # after the last fit or refine
        # One length for all chunks, so that one program is compiled.
        self._length = min((stream.form.most for stream in streams), default=1)

    def prepare(self, begin: int, end: int, give_up: Callable[[], bool]) -> int:
        """Get the data of steps `begin` to `end`.

        Parameters
        ----------
        begin, end : int
            Counted from 0; the last is not among them.
        give_up : callable
            Whether to wait no longer for a Stream.

        Returns
        -------
        int
            The step before which there are data: `end`, or less; `begin` at the end of a Stream.
        """
        if not self._readers:
            return end
        self._batches, self._begin, self._end = {}, begin, begin
        most = min(end - begin, self._length)
        for stream, reader in self._readers.items():
            self._batches[stream] = reader.take(most, give_up) if most else []
            most = len(self._batches[stream])
        for stream, batches in self._batches.items():
            self._readers[stream].put_back(len(batches) - most)
        self._end += most
        if most:
            data, constants = self.inputs
            stacks = zip(data, self._origins, strict=True)
            found = (x if origin is None else self._stack(*origin) for x, origin in stacks)
            self.inputs = tuple(found), constants
        return self._end

    def peek(self, end: int, give_up: Callable[[], bool]) -> int:
        """Get the data of the first `end` steps, which are still to be taken; as `prepare`."""
        found = self.prepare(0, end, give_up)
        for stream in self._batches:
            self._readers[stream].put_back(found)
        self._batches = {}
        return found

    @contextlib.contextmanager
    def open(self, step: Callable[[], int]) -> Generator[None]:
        """Read ahead as long as this lasts; then put back what is beyond the last step taken."""
        moved = [s for s, at in self._positions.items() if self._readers[s].position != at]
        if moved:
            raise ValueError(_MOVED.format(moved))
        try:
            yield
        finally:
            for stream in self._batches:
                self._readers[stream].put_back(self._end - max(step(), self._begin))
            self._batches = {}
            self._positions = {s: reader.position for s, reader in self._readers.items()}
            for reader in self._readers.values():
                reader.stop()  # last: it may wait for the source, and a second Ctrl-C ends that

    def _stack(self, stream: Stream, key: Any) -> Array:
        """One part of the batches at hand, that of step t at place t modulo the length."""
        i = stream.form.keys.index(key)
        shape, dtype = stream.form.shapes[i], stream.form.dtypes[i]
        stack = _aligned((self._length, *shape), dtype)
        for step, batch in zip(range(self._begin, self._end), self._batches[stream], strict=False):
            stack[step % self._length] = batch[i]
        return jax.device_put(stack)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory not yet touched; its values are whatever was there."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % _ALIGNMENT
    return raw[offset : offset + size].view(dtype).reshape(shape)


_MOVED = (
    "refine continues a fit where its Stream stood, but {} was read on by another fit since, and "
    "its source, an iterator, cannot go back: call .fit, which goes on where it stands now, or "
    "pass a function that makes the iterator"
)

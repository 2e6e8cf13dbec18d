"""Which part of a stored array each step of a fit sees, as a value."""

import dataclasses
import functools
import secrets
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.batching.permutation import with_replacement, without_replacement
from numpyro_vi_ext.batching.total_size import spread
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.seeds import Seed, as_key

Array = jax.Array
Stream = tuple[int, ...]  # (axis or 0, length, size, sampling, seed): what indices depend on
Indices = tuple[Array | None, ...]  # one per axis of a plan; None for an axis that is whole

_SAMPLING = ("iid", "epoch")


class Cut(NamedTuple):
    """How one axis is cut.

    Parameters
    ----------
    size : int
        Length B of a batch along the axis.
    seed : int
        What the indices are drawn with.
    explicit : bool
        Whether the seed was given for this very axis.
    """

    size: int
    seed: int
    explicit: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which part of a stored array each step of a fit sees.

    A value without arrays: hashable, and equal to the plan of another array that is cut alike.

    Parameters
    ----------
    axes : tuple of Cut or None
        One per leading axis, None for an axis that is whole; later axes are whole.
    sampling : "iid" or "epoch"
        With or without replacement.
    """

    axes: tuple[Cut | None, ...]
    sampling: str = "iid"
    origin: ClassVar[None] = None  # batches are cut, and come from nowhere else

    @classmethod
    def create(cls, batch_size: Any, ndim: int, seed: int, sampling: str = "iid") -> "Plan":
        """Read `batch_size`, in every form that `Minibatch` takes, for an array of `ndim` axes.

        Raises
        ------
        TypeError, ValueError
            If it is none of the forms.
        """
        if sampling not in _SAMPLING:
            raise ValueError(f"sampling must be one of {_SAMPLING}, got {sampling!r}")
        is_list = isinstance(batch_size, list | tuple)
        entries = spread(batch_size, ndim, "batch_size") if is_list else (batch_size,)
        axes = [_as_cut(entry, seed, batch_size) for entry in entries]
        while axes and axes[-1] is None:  # equal plans are equal values
            axes.pop()
        return cls(tuple(axes), sampling)

    def anonymous(self) -> "Plan":
        """The plan as compiled code sees it."""
        return self

    def lengths(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Lengths of the axes of the plan in an array of this shape."""
        return shape[: len(self.axes)]

    def check(self, lengths: Sequence[int]) -> None:
        """Raise the ValueError of `stream` if an array of these lengths cannot be cut."""
        self.streams(lengths)

    def shape(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """Shape of a batch of an array of these lengths."""
        cuts = self.axes + (None,) * (len(lengths) - len(self.axes))
        return tuple(n if cut is None else cut.size for cut, n in zip(cuts, lengths, strict=True))

    def scale(self, lengths: Sequence[int]) -> tuple[float, ...]:
        """N / B of each axis of an array of these lengths; 1.0 where it is whole."""
        return tuple(n / b for n, b in zip(lengths, self.shape(lengths), strict=True))

    def describe(self, lengths: Sequence[int]) -> str:
        """How much of an array of these lengths a batch is, in words.

        Examples
        --------
        >>> Plan.create([500, 10], ndim=2, seed=42).describe((40_000, 100))
        '500 of 40,000 rows, 10 of 100 along axis 1'
        """
        words = [] if self.axes and self.axes[0] else [f"all {lengths[0]:,d} rows"]
        for axis, (cut, length) in enumerate(zip(self.axes, lengths, strict=False)):
            if cut is not None:
                where = f"along axis {axis}" if axis else "rows"
                words.append(f"{cut.size:,d} of {length:,d} {where}")
        return ", ".join(words)

    def stream(self, axis: int, length: int) -> Stream | None:
        """What the indices along an axis depend on besides the step; None if it is whole.

        Two axes with equal streams have the same indices at every step, others are independent.

        Raises
        ------
        ValueError
            If an epoch is smaller than a batch, or the axis is too long for JAX's int32 indices.
        """
        cut = self.axes[axis] if axis < len(self.axes) else None
        if cut is None:
            return None
        if self.sampling == "epoch" and cut.size > length:
            raise ValueError(
                f"batch_size must be at most the length of the data with sampling='epoch', which "
                f"draws without replacement; got {cut.size} for axis {axis} of length {length}"
            )
        if length >= 2**31:
            raise ValueError(f"axis {axis} must be shorter than 2**31 to be cut, got {length:,d}")
        number = 0 if cut.explicit else axis + 1
        return number, length, cut.size, _SAMPLING.index(self.sampling), cut.seed % 2**64

    def streams(self, lengths: Sequence[int]) -> tuple[Stream | None, ...]:
        """The stream of each axis of the plan, for an array of these lengths."""
        return tuple(self.stream(axis, lengths[axis]) for axis in range(len(self.axes)))

    def indices(self, axis: int, length: int, step: Array | int) -> Array | None:
        """Positions along one axis that a step sees.

        The cost does not depend on `length`.

        Parameters
        ----------
        axis : int
            Number of the axis, from 0.
        length : int
            Length N of that axis in the stored array.
        step : int
            Step of the fit, from 0; may be traced.

        Returns
        -------
        array of int32, shape (B,), or None
            None if the axis is whole.

        Raises
        ------
        ValueError
            As `stream` does.
        """
        stream = self.stream(axis, length)
        if stream is None:
            return None
        # Not JAX's default generator, which a user may change for one that vmap changes.
        words = jnp.asarray(np.random.SeedSequence(stream).generate_state(2))
        key = jax.random.wrap_key_data(words, impl="threefry2x32")
        draw = with_replacement if self.sampling == "iid" else without_replacement
        return draw(key, jnp.asarray(step, jnp.int32), length, stream[2])

    def block_indices(self, lengths: Sequence[int], start: Array | int, steps: int) -> Indices:
        """Positions along every axis of the plan for `steps` steps, each of shape (steps, B)."""
        block = jnp.asarray(start, jnp.int32) + jnp.arange(steps, dtype=jnp.int32)
        return tuple(
            None if cut is None else jax.vmap(functools.partial(self.indices, axis, n))(block)
            for axis, (cut, n) in enumerate(zip(self.axes, lengths, strict=False))
        )

    def gather(self, stored: Array, indices: Indices) -> Array:
        """The batch at these positions: the outer product of the axes, as ``np.ix_`` makes it.

        Parameters
        ----------
        stored : array
            The full data.
        indices : tuple of (array of shape (B,), or None)
            One per axis of the plan.
        """
        scale = self.scale(stored.shape)
        # What leaves least goes first: the next gather has less to copy.
        for axis in sorted(range(len(indices)), key=lambda i: -scale[i]):
            found = indices[axis]
            if found is not None:
                stored = jnp.take(stored, found, axis=axis, mode="clip")
        return stored

    def take(self, stored: Array, step: Array | int) -> Array:
        """The batch that a step sees.

        Examples
        --------
        >>> plan = Plan.create(2, ndim=1, seed=42)
        >>> plan.take(jnp.arange(100), 7).shape
        (2,)
        """
        lengths = self.lengths(stored.shape)
        found = tuple(self.indices(axis, n, step) for axis, n in enumerate(lengths))
        return self.gather(stored, found)

    def at_rows(self, stored: Array, stream: Stream, rows: np.ndarray) -> Array:
        """The batch at these rows, if they are of that stream; other axes as in the first step."""
        indices = (
            jnp.asarray(rows, jnp.int32)
            if s == stream
            else self.indices(axis, stored.shape[axis], 0)
            for axis, s in enumerate(self.streams(stored.shape))
        )
        return self.gather(stored, tuple(indices))


def _as_cut(entry: Any, seed: int, batch_size: Any) -> Cut | None:
    """One entry of `batch_size`, which is quoted where it is wrong."""
    if entry is None:
        return None
    explicit = isinstance(entry, tuple) and len(entry) == 2
    size, own = entry if explicit else (entry, seed)
    try:
        return Cut(as_count(size, "batch_size", 1), as_count(own, "seed", -(2**63)), explicit)
    except TypeError:
        raise TypeError(
            "batch_size must be an int, None, or a list with an int, a pair (size, seed) of ints, "
            f"None or one Ellipsis per leading axis; got {entry!r} of type {type(entry).__name__}"
            + (f" in {batch_size!r}" if isinstance(batch_size, list | tuple) else "")
        ) from None


def seed_number(random_seed: Seed) -> int:
    """The seed as an int, for a plan holds no arrays."""
    if random_seed is None:
        return secrets.randbits(64)
    try:
        seed = as_count(random_seed, "random_seed", -(2**63))
    except TypeError:
        words = jax.random.bits(as_key(random_seed), (2,), jnp.uint32)
        return int(words[0]) << 32 | int(words[1])
    if seed >= 2**64:
        raise ValueError(f"random_seed must fit in 64 bits, got {seed}")
    return seed

"""What stands for a random slice of data in the arguments of a model."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from numpyro_vi_ext.batching.plans import Plan, seed_number
from numpyro_vi_ext.batching.storage import as_array, as_dtype, as_stored, kept_slices, kind_of
from numpyro_vi_ext.seeds import Seed

Array = jax.Array


class Minibatch:
    """Stands for a random slice of data, another one at each step of a fit.

    Passed to a model in the place of the data. The data are stored on the device once, and the
    slices are taken within the compiled step.

    Parameters
    ----------
    data : array_like of numbers, shape (N, ...)
        The full data. Floats become JAX's default float type, integers and booleans stay.
    *more : array_like
        Arrays of the same length that share their row indices with `data`.
    batch_size : int, list or None
        Length B of a batch. An int cuts the first axis. A list has one entry per leading axis: an
        int, a pair (size, seed), None for a whole axis, or once an Ellipsis for all axes between.
        Several cut axes draw independent indices and are combined as an outer product, unless
        they are of equal length and size and are given the same seed in a pair. The forms are those
        of PyMC3, which without seeds draws the same rows and columns of a square array.
    dtype : dtype, optional
        Forces a type.
    random_seed : int, JAX key or None
        Seed of the axes that have none of their own. Objects with equal seeds, lengths and sizes
        see the same rows; None is another seed each time. The seed of a fit does not matter here.
    sampling : "iid" or "epoch"
        With replacement, or without: then every row comes once in an epoch of N // B steps, save
        for N % B of them, others in each epoch, that would not fill a batch.
    update_shared_f : callable, optional
        Returns new data, a tuple of arrays if there are several: see `update_shared`.
    in_memory_size : int, slice, list or None
        The part of `data` to store: an int k is the first k rows, a list has an int, a slice, None
        or one Ellipsis per leading axis.
    name : str, optional
        Name to show.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these, if the data are empty or do not fit the type, if arrays
        differ in length, or if a batch without replacement is larger than the data.

    Warns
    -----
    UserWarning
        If there are NaN in the data.

    Examples
    --------
    >>> X, y = np.ones((1000, 3)), np.zeros(1000, int)
    >>> X_mb, y_mb = Minibatch(X, y, batch_size=100)
    >>> X_mb, X_mb.scale, X_mb.eval().shape
    (Minibatch(100 of 1,000 rows, shape=(100, 3), float32), (10.0, 1.0), (100, 3))
    >>> y_mb.set_value(np.ones(2000, int))
    >>> fed = Minibatch(y, update_shared_f=lambda: np.ones(3000, int))
    >>> fed.update_shared()
    >>> y_mb.total_size, fed.total_size
    ((2000,), (3000,))
    """

    def __init__(
        self,
        data: Any,
        *more: Any,
        batch_size: Any = 128,
        dtype: Any = None,
        random_seed: Seed = 42,
        sampling: str = "iid",
        update_shared_f: Callable[[], Any] | None = None,
        in_memory_size: Any = None,
        name: str | None = None,
    ) -> None:
        _check_options(more, update_shared_f, name)
        self.name = name
        self._update_shared_f = update_shared_f
        self._evaluated = 0
        self._joint: Minibatch | None = None
        self._parts: tuple[Minibatch, ...] = ()
        self._held: tuple[Plan, Array] | None = None
        seed = seed_number(random_seed)
        if not more:
            array = as_array(data)
            plan = Plan.create(batch_size, array.ndim, seed, sampling)
            array = array[kept_slices(in_memory_size, array.ndim)]
            stored = as_stored(array, as_dtype(dtype, array.dtype))
            plan.check(stored.shape)
            self._forced, self._in_memory_size = dtype, in_memory_size
            self._held = plan, stored
            return
        options: dict[str, Any] = {"batch_size": batch_size, "dtype": dtype, "random_seed": seed}
        options |= {"sampling": sampling, "in_memory_size": in_memory_size}
        self._parts = _make_parts((data, *more), name, options)
        if update_shared_f is not None:  # once this is unpacked, only its parts remain
            for part in self._parts:
                part._joint = self

    @property
    def parts(self) -> tuple["Minibatch", ...]:
        """One object per array."""
        return self._parts or (self,)

    @property
    def shared(self) -> Array:
        """The stored data."""
        return self._one()[1]

    @property
    def plan(self) -> Plan:
        """Which part of the stored data each step sees."""
        return self._one()[0]

    @property
    def total_size(self) -> tuple[int, ...]:
        """Shape of the stored data, N first."""
        return self.shared.shape

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a batch, B first."""
        return self.plan.shape(self.total_size)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.shared.ndim

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored data, and so of a batch."""
        return self.shared.dtype

    @property
    def scale(self) -> tuple[float, ...]:
        """N / B of each axis; 1.0 where it is whole."""
        return self.plan.scale(self.total_size)

    def eval(self) -> Any:
        """A fresh batch at each call: those of steps 0, 1, ... of a fit, which is not affected.

        Returns
        -------
        array, or tuple of arrays that have the same rows
        """
        step, self._evaluated = self._evaluated, self._evaluated + 1
        batches = tuple(np.array(part.plan.take(part.shared, step)) for part in self.parts)
        return batches if self._parts else batches[0]

    def set_value(self, data: Any, *more: Any) -> None:
        """Store other data, which the next fit sees; what holds the former keeps them.

        Parameters
        ----------
        data, *more : array_like
            As many arrays as there are. The first axis, and others that are cut, may have another
            length; `in_memory_size` says what is stored of these data too.

        Raises
        ------
        TypeError, ValueError
            If the data are of another kind, or do not fit otherwise; then nothing is changed.
        """
        parts, arrays = self.parts, (data, *more)
        if len(arrays) != len(parts):
            raise TypeError(f"set_value must get {len(parts)} arrays, got {len(arrays)}")
        stored = [part._convert(array) for part, array in zip(parts, arrays, strict=True)]
        _check_lengths([array.shape[0] for array in stored])
        for part, array in zip(parts, stored, strict=True):
            part._held = (part.plan, array)

    def update_shared(self) -> None:
        """Store what `update_shared_f` returns, for all arrays that share their rows.

        Raises
        ------
        NotImplementedError, TypeError, ValueError
            If there is no `update_shared_f`; if `set_value` refuses what it returns.
        """
        if self._joint is not None:
            return self._joint.update_shared()
        if self._update_shared_f is None:
            raise NotImplementedError(
                "update_shared needs the function that returns new data: give it as "
                "Minibatch(..., update_shared_f=...), or use set_value"
            )
        found = self._update_shared_f()
        if not self._parts:
            return self.set_value(found)
        if not isinstance(found, tuple | list):
            expected = f"a tuple of {len(self._parts)} arrays"
            raise TypeError(f"update_shared_f must return {expected}, got {type(found).__name__}")
        return self.set_value(*found)

    def _convert(self, data: Any) -> Array:
        """Other data, in the type of the former."""
        plan, former = self._one()
        array = as_array(data)
        if array.ndim == former.ndim:
            array = array[kept_slices(self._in_memory_size, former.ndim)]
        if array.ndim != former.ndim or plan.shape(array.shape)[1:] != self.shape[1:]:
            raise ValueError(
                f"set_value must get data like those of shape {former.shape}, of which the first "
                f"axis and those that are cut may have another length; got shape {array.shape}"
            )
        dtype = as_dtype(self._forced, array.dtype)
        if kind_of(dtype) != kind_of(former.dtype):
            raise TypeError(
                f"set_value must get {kind_of(former.dtype)} data, to be stored as {former.dtype}, "
                f"got {array.dtype}; convert them, or give the Minibatch a dtype when it is made"
            )
        stored = as_stored(array, former.dtype)
        plan.check(stored.shape)
        return stored

    def __repr__(self) -> str:
        if self._parts:
            return f"Minibatch({', '.join(map(repr, self._parts))})"
        label = "" if self.name is None else f"{self.name!r}: "
        cuts = self.plan.describe(self.total_size)
        sampling = "" if self.plan.sampling == "iid" else f", sampling={self.plan.sampling!r}"
        return f"Minibatch({label}{cuts}, shape={self.shape}, {self.dtype}{sampling})"

    def __iter__(self) -> Iterator["Minibatch"]:
        return iter(self._several())

    def __getitem__(self, index: Any) -> Any:
        return self._several()[index]

    def __len__(self) -> int:
        return len(self._several())

    def _one(self) -> tuple[Plan, Array]:
        if self._held is None:
            raise AttributeError(
                f"this Minibatch holds {len(self._parts)} arrays, each with a shape and data of "
                "its own: unpack it, as in X_mb, y_mb = minibatch, or take minibatch[0]"
            )
        return self._held

    def _several(self) -> tuple["Minibatch", ...]:
        if not self._parts:
            raise TypeError(
                "a Minibatch of one array has no parts to unpack, index or count: see .shape and "
                ".total_size, and .shared and .eval() for values"
            )
        return self._parts

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            "a Minibatch has no values of its own, and one batch would stay frozen in the array: "
            "pass it to the model, or take .eval() for a batch and .shared for the full data"
        )


def _make_parts(arrays: Any, name: str | None, options: dict[str, Any]) -> tuple[Minibatch, ...]:
    parts = []
    for i, array in enumerate(arrays):
        own = None if name is None else f"{name}[{i}]"
        try:
            parts.append(Minibatch(array, name=own, **options))
        except (TypeError, ValueError) as error:
            error.add_note(f"This is about array {i} of the {len(arrays)} of this Minibatch.")
            raise
    _check_lengths([part.total_size[0] for part in parts])
    return tuple(parts)


def _check_options(more: Sequence[Any], update_shared_f: Any, name: Any) -> None:
    for given in more:
        is_list = isinstance(given, list | tuple)
        if np.ndim(given) == 0 if not is_list else any(x is None or x is Ellipsis for x in given):
            raise TypeError(
                f"further arguments must be arrays, got {given!r}; batch_size is given by name, as "
                "in Minibatch(data, batch_size=500)"
            )
    if update_shared_f is not None and not callable(update_shared_f):
        raise TypeError(f"update_shared_f must be a function of nothing, got {update_shared_f!r}")
    if not isinstance(name, str | None):
        raise TypeError(f"name must be a string, got {name!r} of type {type(name).__name__}")


def _check_lengths(lengths: Sequence[int]) -> None:
    if len(set(lengths)) > 1:
        raise ValueError(
            "the arrays of one Minibatch share their rows and must be of equal length, got the "
            f"lengths {tuple(lengths)} (batch_size is given by name)"
        )

"""What a batch from outside looks like: all batches of a stream must look like the first."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from numpyro_vi_ext.batching.storage import as_array, as_dtype, copy_into

_MOST_BYTES, _MOST_BATCHES = 2**24, 4096

Batch = tuple[np.ndarray, ...]  # one array per key of a form, each with the rows of the batch


@dataclasses.dataclass(frozen=True)
class Form:
    """Keys, shapes and types of a batch.

    Parameters
    ----------
    kind : str
        "an array", "a sequence" of arrays, or "a mapping" to arrays.
    keys : tuple
        Of the mapping, or positions in the sequence; (None,) for an array.
    shapes : tuple of tuples
        Of the arrays; all begin with the number of rows B.
    given : tuple of dtype
        As they come.
    dtypes : tuple of dtype
        As they go to the device.
    """

    kind: str
    keys: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]
    given: tuple[np.dtype, ...]
    dtypes: tuple[np.dtype, ...]

    @classmethod
    def of(cls, batch: Any) -> "Form":
        """What the first batch looks like.

        Raises
        ------
        TypeError
            If it is no batch of numbers.
        ValueError
            If it has no rows, or its arrays have different numbers of rows.
        """
        kind, parts = _split(batch)
        if not parts:
            raise ValueError(f"a batch must have at least one array, got an empty {_name(batch)}")
        arrays = [_as_array(value, key) for key, value in parts.items()]
        shapes, given = tuple(x.shape for x in arrays), tuple(x.dtype for x in arrays)
        if len({shape[0] for shape in shapes}) > 1 or shapes[0][0] == 0:
            raise ValueError(
                "the arrays of a batch must have the same number of rows, at least one, got the "
                f"shapes {dict(zip(parts, shapes, strict=True))}"
            )
        dtypes = tuple(as_dtype(None, dtype) for dtype in given)
        return cls(kind, tuple(parts), shapes, given, dtypes)

    @property
    def rows(self) -> int:
        """Number of rows B of a batch."""
        return self.shapes[0][0]

    @property
    def size(self) -> int:
        """Bytes of a batch on the device."""
        pairs = zip(self.shapes, self.dtypes, strict=True)
        return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in pairs)

    @property
    def most(self) -> int:
        """How many batches may be in memory at once, in one place: a power of two."""
        limit = max(1, min(_MOST_BATCHES, _MOST_BYTES // max(1, self.size)))
        return 2 ** int(math.log2(limit))

    def empty(self, count: int) -> Batch:
        """Room for batches, one array per key with the batches along its first axis."""
        pairs = zip(self.shapes, self.dtypes, strict=True)
        return tuple(np.empty((count, *shape), dtype) for shape, dtype in pairs)

    def read(self, batch: Any, into: Batch) -> None:
        """Copy the arrays of a batch of this form.

        Raises
        ------
        TypeError, ValueError
            If it has another form.
        """
        kind, parts = _split(batch)
        if kind != self.kind or parts.keys() != set(self.keys):
            raise ValueError(
                f"all batches must have the same keys: expected {self._told()}, as in the first "
                f"batch, got {kind} with the keys {[*parts]}"
            )
        arrays = [_as_array(parts[key], key) for key in self.keys]
        for key, array, shape, dtype in zip(
            self.keys, arrays, self.shapes, self.given, strict=True
        ):
            if array.shape != shape:
                raise ValueError(
                    f"all batches must have one shape: expected {shape}, as in the first batch, "
                    f"got {array.shape}{_at(key)}. Leave a shorter last batch out (drop_last=True, "
                    "or drop_remainder=True, in most loaders), or fill it up with other rows."
                )
            if array.dtype != dtype:
                raise TypeError(
                    f"all batches must have one dtype: expected {dtype}, as in the first batch, "
                    f"got {array.dtype}{_at(key)}. Convert them in the source."
                )
        for copy, array in zip(into, arrays, strict=True):
            copy_into(copy, array)

    def _told(self) -> str:
        return f"{self.kind} with the keys {[*self.keys]}"


def _split(batch: Any) -> tuple[str, dict[Any, Any]]:
    """The parts of a batch by key, and what holds them."""
    if isinstance(batch, Mapping):
        return "a mapping", dict(batch)
    if isinstance(batch, tuple | list):
        return "a sequence", dict(enumerate(batch))
    return "an array", {None: batch}


def _as_array(value: Any, key: Any) -> np.ndarray:
    """An array, also one of another library that offers ``.numpy()``."""
    if not isinstance(value, np.ndarray) and callable(getattr(value, "numpy", None)):
        value = value.numpy()
    try:
        return np.asarray(as_array(value))
    except (TypeError, ValueError) as error:
        error.add_note(
            f"This is about a batch of a Stream{_at(key)}. A batch is an array, or a tuple, list "
            "or dict of arrays, whose first axis are its rows."
        )
        raise


def _at(key: Any) -> str:
    return "" if key is None else f" in its part {key!r}"


def _name(batch: Any) -> str:
    return type(batch).__name__

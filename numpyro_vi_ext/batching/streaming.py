"""Batches from outside memory, and what stands for them in the arguments of a model."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.batching.batches import Form
from numpyro_vi_ext.batching.prefetch import Reader
from numpyro_vi_ext.batching.sources import opened
from numpyro_vi_ext.checks import as_count

Array = jax.Array

_numbers = itertools.count()


class Stream:
    """Stands for data that come in batches from outside memory, a batch for each step of a fit.

    Its parts are passed to a model in the place of the data: ``stream["X"]`` of batches that are
    dicts, ``stream[0]`` of tuples or lists (or ``X, y = stream``), the stream itself if a batch is
    one array. Batches are read ahead on a thread while the steps run.

    Parameters
    ----------
    source : iterable, sequence or callable
        Of batches; or a function of nothing that returns such an iterable, called anew for each
        epoch. A batch is an array, or a tuple, list or dict of arrays, whose first axis are its
        rows; tensors of other libraries are taken by their method ``numpy()``. All batches must
        have the keys, shapes and dtypes of the first. Floats become JAX's default float type.
    total_size : int
        Number N of rows of the full data, which has to be given: a batch of B rows counts N / B
        times, and a stream does not tell N.
    name : str, optional
        Name to show.
    prefetch : int
        Batches to read ahead at least; many more where steps are fast.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these, or the first batch, which is read at once, no batch.
    KeyError
        From ``stream[key]``, if batches have no such part.

    Notes
    -----
    What can be begun again (a function, a sequence, a loader) is, at the end of each epoch and at
    each new ``fit``. What can not (a generator, an iterator) goes on where it stands, and where it
    ends the fit ends. ``refine`` always goes on where the fit stood.

    The rows must come in random order: a step sees nothing but its batch. A batch should not
    depend on those before it; how to shuffle data on disk is a matter of the source.

    There are no full data after the fit. Draws of latent sites do not need any; all that does,
    such as predictions, raises a ValueError that says which data to pass.

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> import numpyro_vi_ext as vi
    >>> def batches():
    ...     rng = np.random.default_rng(0)
    ...     for _ in range(100):
    ...         X = rng.normal(size=(500, 2))
    ...         yield {"X": X, "y": X @ [1.0, -2.0] + rng.normal(size=500)}
    >>> def model(X, y=None):
    ...     b = numpyro.sample("b", dist.Normal(0, 3).expand([2]).to_event(1))
    ...     numpyro.sample("y", dist.Normal(X @ b, 1), obs=y)
    >>> stream = vi.Stream(batches, total_size=50_000)
    >>> stream
    Stream({'X': (500, 2), 'y': (500,)}, 500 of 50,000 rows)
    >>> approx = vi.fit(model, 2000, model_args=(stream["X"], stream["y"]), random_seed=0,
    ...                 progressbar=False)
    >>> print(approx.mean.round(1))
    [ 1. -2.]
    """

    def __init__(
        self, source: Any, *, total_size: Any = None, name: str | None = None, prefetch: int = 2
    ) -> None:
        if total_size is None:
            raise TypeError(
                "total_size must be given: the number of rows N of the full data. The likelihood "
                "of a batch of B rows counts N / B times, and a stream cannot tell N."
            )
        if not isinstance(name, str | None):
            raise TypeError(f"name must be a string, got {name!r} of type {type(name).__name__}")
        self.total_size: int = as_count(total_size, "total_size", 1)
        self.name: str | None = name
        self._number = next(_numbers)
        self._prefetch = as_count(prefetch, "prefetch", 1)
        self._source = source
        self._begin, self._is_endless = opened(source)
        self._reader: Reader | None = self._read_on()
        first = self._reader.first()
        self.form: Form = self._reader.form
        if self.form.rows > self.total_size:
            raise ValueError(
                "total_size must be the number of rows of the full data, at least those of a "
                f"batch; got {self.total_size} for batches of {self.form.rows} rows"
            )
        self._parts = {
            key: Part(self, key, jax.device_put(array.copy()))
            for key, array in zip(self.form.keys, first, strict=True)
        }

    def reader(self) -> Reader:
        """What a fit reads from: from the beginning if the source has one to go back to.

        The first batch, which was read when this was made, is not lost.
        """
        found = self._reader
        if found is None:
            found = self._read_on()
            found.use(self.form)
        if self._is_endless:
            self._reader = None
        return found

    def _read_on(self) -> Reader:
        return Reader(self._begin, self._is_endless, self._prefetch)

    @property
    def number(self) -> int:
        """Tells streams apart."""
        return self._number

    def __getitem__(self, key: Any) -> "Part":
        if key not in self._parts or key is None:
            keys = [k for k in self.form.keys if k is not None]
            raise KeyError(
                f"the batches of this Stream have no part {key!r}; "
                + (f"there are {keys}" if keys else "they are single arrays: pass the Stream")
            )
        return self._parts[key]

    def __iter__(self) -> Iterator["Part"]:
        if self.form.kind != "a sequence":
            raise TypeError(
                "only a Stream whose batches are tuples or lists can be unpacked; "
                "take parts by their keys, as in stream['X']"
            )
        return iter(self._parts.values())

    def whole(self, name: str = "") -> "Part":
        """The only part, of batches that are single arrays.

        Raises
        ------
        TypeError
            If they have several; `name` is that of the argument.
        """
        if None not in self._parts:
            raise TypeError(
                f"model argument {name!r} is a Stream with the parts {[*self._parts]}; pass one "
                f"of them for each argument, as in stream[{next(iter(self._parts))!r}]"
            )
        return self._parts[None]

    def __repr__(self) -> str:
        label = "" if self.name is None else f"{self.name!r}: "
        shapes = dict(zip(self.form.keys, self.form.shapes, strict=True))
        what = shapes.get(None, shapes)
        return f"Stream({label}{what}, {self.form.rows:,d} of {self.total_size:,d} rows)"

    def __reduce__(self) -> Any:
        return _made, (self._source, self.total_size, self.name, self._prefetch)

    # What an argument is asked for that is an array.

    @property
    def shared(self) -> Array:
        """The first batch; like `shape`, `ndim` and `dtype` a TypeError if it is several arrays."""
        return self.whole().shared

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a batch, B first."""
        return self.whole().shape

    @property
    def ndim(self) -> int:
        """Number of its axes."""
        return self.whole().ndim

    @property
    def dtype(self) -> np.dtype:
        """Its type on the device."""
        return self.whole().dtype


class Part:
    """One array of each batch of a `Stream`: what stands for an argument of a model."""

    def __init__(self, stream: Stream, key: Any, shared: Array) -> None:
        self.stream = stream
        self.key: Any = key
        self.shared = shared  # of the first batch
        self.plan: Flow = Flow(stream.total_size, stream.form.rows, (stream, key))

    def whole(self, name: str = "") -> "Part":
        """Itself: it is one array."""
        return self

    @property
    def total_size(self) -> int:
        """Number of rows N of the full data."""
        return self.stream.total_size

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in a batch, B first."""
        return self.shared.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.shared.ndim

    @property
    def dtype(self) -> np.dtype:
        """Type on the device."""
        return self.shared.dtype

    def __repr__(self) -> str:
        return f"{self.stream!r}[{self.key!r}]"

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            "a part of a Stream has no values of its own: make it an argument of the model"
        )


@dataclasses.dataclass(frozen=True)
class Flow:
    """Stands for a plan where batches are not cut but come: see `plans.Plan`.

    Where a plan has the full data to cut from, there is the first batch here, and within a
    compiled chunk a stack of batches, in which that of step t is at t modulo its length.

    Parameters
    ----------
    length : int
        Rows N of the full data.
    size : int
        Rows B of a batch.
    origin : pair of (Stream, key), or None
        Where the batches come from; None where that does not matter.
    """

    length: int
    size: int
    origin: tuple[Stream, Any] | None = None

    def anonymous(self) -> "Flow":
        """The same, without what plays no part in compiled code."""
        return Flow(self.length, self.size)

    def lengths(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """How many batches there are in a stack."""
        return shape[:1]

    def streams(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...]]:
        """Identity of the rows."""
        number = 0 if self.origin is None else self.origin[0].number
        return ((-1 - number, self.length, self.size),)

    def take(self, first: Array, step: Any) -> Array:
        """The first batch, in place of that of any step."""
        return first

    def at_rows(self, first: Array, stream: tuple[int, ...], rows: np.ndarray) -> Array:
        """Rows of the first batch, spread over it as `rows` are over the full data."""
        if stream not in self.streams(first.shape):
            return first
        return first[rows.astype(np.int64) * self.size // self.length]

    def block_indices(self, lengths: tuple[int, ...], start: Any, steps: int) -> tuple[Array]:
        """Places in the stack of the batches of `steps` steps."""
        return ((jnp.asarray(start, jnp.int32) + jnp.arange(steps, dtype=jnp.int32)) % lengths[0],)

    def gather(self, stack: Array, indices: tuple[Array]) -> Array:
        """The batch at a place in the stack."""
        return jax.lax.dynamic_index_in_dim(stack, indices[0], keepdims=False)


def _made(source: Any, total_size: int, name: str | None, prefetch: int) -> Stream:
    return Stream(source, total_size=total_size, name=name, prefetch=prefetch)

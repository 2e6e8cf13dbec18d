"""What batches can come from: iterators, iterables, sequences, and functions that make them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any


def opened(source: Any) -> tuple[Callable[[], Iterator[Any]], bool]:
    """A function that makes an iterator of batches, and whether it can do so more than once.

    Raises
    ------
    TypeError
        If the source is neither an iterable of batches, nor a sequence, nor a function.
    """
    is_iterable = hasattr(source, "__iter__")
    if hasattr(source, "dtype") or isinstance(source, str | bytes | dict):
        raise TypeError(
            f"source must give batches one after the other, got a {type(source).__name__}: cut it "
            "into batches, as in [data[i : i + B] for i in range(0, len(data), B)], or use a "
            "Minibatch, if it fits into memory"
        )
    if isinstance(source, Iterator):
        return lambda: source, False
    if is_iterable:
        return lambda: iter(source), True
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return lambda: _Indexed(source), True
    if callable(source):
        return lambda: iter(_iterable(source())), True
    raise TypeError(
        "source must be an iterable of batches, or a function of nothing that returns one, got "
        f"{source!r} of type {type(source).__name__}"
    )


def _iterable(found: Any) -> Iterable[Any]:
    if not hasattr(found, "__iter__") or hasattr(found, "dtype"):
        raise TypeError(
            "the function that is the source of a Stream must return an iterable of batches, such "
            f"as a generator, got {type(found).__name__}"
        )
    return found


class _Indexed:
    """Batches of a sequence in order; goes on after an error."""

    def __init__(self, source: Any) -> None:
        self._source, self._next = source, 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._next >= len(self._source):
            raise StopIteration
        self._next += 1
        return self._source[self._next - 1]

"""Reading batches ahead of their use, on a thread of its own."""

import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from numpyro_vi_ext.batches import Batch, Form

_PATIENCE = 0.1  # seconds to wait for more batches where there are some
_POLL = 0.05  # seconds between two looks at whether to give up
_JOIN = 5.0  # seconds to wait for a source to return from reading one batch


class Reader:
    """One way through a source, from its beginning to its end, or round and round.

    The thread runs between `take` and `stop` only; what it has read by then is kept.

    Parameters
    ----------
    begin : callable
        Returns an iterator of batches, to begin with and, if `is_endless`, after each end.
    is_endless : bool
        Whether the source can begin again.
    prefetch : int
        Batches to read ahead, if no more are asked for at once.
    """

    form: Form  # what each batch must look like

    def __init__(self, begin: Callable[[], Iterator[Any]], is_endless: bool, prefetch: int) -> None:
        self._begin, self._is_endless, self._prefetch = begin, is_endless, prefetch
        self._iterator = begin()
        self._of_epoch = 0  # batches since the source began
        self._ready: deque[Batch] = deque()
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._room, self._wanted = prefetch, 0
        self._stopping = self._ended = self._failed = False
        self._error: BaseException | None = None
        self._remark = ""
        self.position = 0  # batches taken

    def first(self) -> Batch:
        """Read the first batch, which says what all others must look like, and stays to be taken.

        Raises
        ------
        TypeError, ValueError
            If there is none, or it is no batch.
        """
        batch = self._next()
        if batch is _END:
            raise ValueError(_NOTHING)
        self.form = Form.of(batch)
        self._ready.append(self.form.read(batch))
        return self._ready[0]

    def take(self, most: int, give_up: Callable[[], bool]) -> list[Batch]:
        """The next batches, as many as asked for, or fewer if the source is slow.

        Parameters
        ----------
        most : int
            How many.
        give_up : callable
            Asked now and then, while there is nothing, whether to wait no longer.

        Returns
        -------
        list
            Empty only if the source has ended, or there was no more waiting.

        Raises
        ------
        Exception
            What the source has raised, or what is wrong with a batch, once all batches before it
            are taken.
        """
        until = time.monotonic() + _PATIENCE
        with self._change:
            self._room, self._wanted = max(self._prefetch, most), most
            self._start()
            self._change.notify_all()
            while len(self._ready) < most and not (self._ended or self._error or give_up()):
                if self._ready and time.monotonic() > until:
                    break
                self._change.wait(_POLL)
            found = [self._ready.popleft() for _ in range(min(most, len(self._ready)))]
            self._change.notify_all()
        self.position += len(found)
        if self._remark:
            remark, self._remark = self._remark, ""
            warnings.warn(remark, stacklevel=2)
        if self._error is not None and not found:
            error, self._error = self._error, None
            raise error
        return found

    def put_back(self, batches: Iterable[Batch]) -> None:
        """Let these, the last that were taken, come once more."""
        batches = list(batches)
        with self._change:
            self._ready.extendleft(reversed(batches))
        self.position -= len(batches)

    def stop(self) -> None:
        """End the thread; `take` starts another one."""
        with self._change:
            thread, self._stopping = self._thread, True
            self._change.notify_all()
        if thread is not None:
            thread.join(_JOIN)

    def _start(self) -> None:
        """Start a thread, unless one is running or there is nothing to read."""
        if self._thread is not None and self._thread.is_alive() and not self._stopping:
            return
        if self._ended or self._error:
            return
        before, self._stopping = self._thread, False
        self._thread = threading.Thread(
            target=self._run, args=(before,), name="numpyro_vi_ext.Stream", daemon=True
        )
        self._thread.start()

    def _run(self, before: threading.Thread | None) -> None:
        """Read until there is no more room, again and again."""
        if before is not None:
            before.join()  # it may still be in the source, which cannot be entered twice
        mine = threading.current_thread()
        while True:
            with self._change:
                while len(self._ready) >= self._room and not self._over(mine):
                    self._change.wait()
                if self._over(mine):
                    return
            batch, error = self._read()
            with self._change:
                self._error, self._ended = error, batch is None and error is None
                if batch is not None:
                    self._ready.append(batch)
                if batch is None or len(self._ready) >= self._wanted:
                    self._change.notify_all()
                if batch is None:
                    return

    def _over(self, mine: threading.Thread) -> bool:
        return self._stopping or self._thread is not mine

    def _read(self) -> tuple[Batch | None, BaseException | None]:
        """The next batch, or what went wrong; neither at the end."""
        try:
            batch = self._next()
        except BaseException as error:
            self._failed = True
            error.add_note("This was raised by the source of a Stream.")
            return None, error
        try:
            return None if batch is _END else self.form.read(batch), None
        except Exception as error:
            error.add_note(f"This is about batch {self._of_epoch - 1} of the source, from 0.")
            return None, error

    def _next(self) -> Any:
        """The next batch as the source gives it, or `_END`."""
        batch = next(self._iterator, _END)
        if batch is _END and self._is_endless:
            if self._failed:
                self._remark = _BEGINS_AGAIN
            elif self._of_epoch == 0:
                raise ValueError(_NOTHING)
            self._iterator, self._of_epoch = self._begin(), 0
            batch = next(self._iterator, _END)
            if batch is _END:
                raise ValueError(_NOTHING)
        self._of_epoch, self._failed = self._of_epoch + 1, False
        return batch


_END = object()
_BEGINS_AGAIN = (
    "the source of a Stream could not go on after it raised an error: it was begun again, so that "
    "rows from its beginning come once more than others"
)
_NOTHING = (
    "the source of the Stream yields no batches: expected an iterable of arrays, or of tuples, "
    "lists or dicts of arrays. If it is an iterator that was used before, pass a function that "
    "makes a new one."
)

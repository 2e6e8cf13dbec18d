"""Reading batches ahead of their use, on a thread of its own."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from numpyro_vi_ext.batching.batches import Batch, Form
from numpyro_vi_ext.errors import warn

_PATIENCE = 0.1  # seconds to wait for more batches where there are some
_POLL = 0.05  # seconds between two looks at whether to give up
_JOIN = 2.0  # seconds to wait for a source to return from reading one batch


class Reader:
    """One way through a source, from its beginning to its end, or round and round.

    The thread runs between `take` and `stop` only; what it has read by then is kept. Batches are
    copied into one ring of memory, which is made once: memory that threads allocate does not
    reliably return to the system.

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
    _ring: Batch
    _slots: int

    def __init__(self, begin: Callable[[], Iterator[Any]], is_endless: bool, prefetch: int) -> None:
        self._begin, self._is_endless, self._prefetch = begin, is_endless, prefetch
        self._iterator = begin()
        self._of_epoch = 0  # batches since the source began
        self._written = self._taken = self._released = 0  # batches
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._room, self._wanted = prefetch, 0
        self._stopping = self._ended = self._failed = False
        self._error: BaseException | None = None
        self._remark = ""

    @property
    def position(self) -> int:
        """Number of batches taken."""
        return self._taken

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
        self.use(Form.of(batch))
        self.form.read(batch, self._at(0))
        self._written = 1
        return self._at(0)

    def use(self, form: Form) -> None:
        """Read batches of this form."""
        # What was taken last is kept there as well.
        self.form, self._slots = form, 2 * max(form.most, self._prefetch)
        self._ring = form.empty(self._slots)

    def _at(self, number: int) -> Batch:
        """The place of a batch in the ring."""
        return tuple(array[number % self._slots] for array in self._ring)

    def take(self, most: int, give_up: Callable[[], bool]) -> list[Batch]:
        """The next batches, as many as asked for, or fewer if the source is slow.

        Parameters
        ----------
        most : int
            How many; not more than the ``most`` of the form.
        give_up : callable
            Asked now and then, while there is nothing, whether to wait no longer.

        Returns
        -------
        list
            Empty only if the source has ended, or there was no more waiting. The arrays are
            overwritten after the next call.

        Raises
        ------
        Exception
            What the source has raised, or what is wrong with a batch, once all batches before it
            are taken.
        """
        until = time.monotonic() + _PATIENCE
        with self._change:
            self._room, self._wanted = max(self._prefetch, most), most
            self._released = self._taken
            self._start()
            self._change.notify_all()
            while self._ready < most and not (self._ended or self._error or give_up()):
                if self._ready and time.monotonic() > until:
                    break
                self._change.wait(_POLL)
            found = [self._at(self._taken + i) for i in range(min(most, self._ready))]
            self._taken += len(found)
            self._change.notify_all()
        if self._remark:
            remark, self._remark = self._remark, ""
            warn(remark)
        if self._error is not None and not found:
            error, self._error = self._error, None
            raise error
        return found

    def put_back(self, count: int) -> None:
        """Let so many, the last that were taken, come once more."""
        with self._change:
            self._taken -= count

    @property
    def _ready(self) -> int:
        """Batches read and not yet taken."""
        return self._written - self._taken

    def _is_full(self) -> bool:
        return self._ready >= self._room or self._written - self._released >= self._slots

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
                while self._is_full() and not self._over(mine):
                    self._change.wait()
                if self._over(mine):
                    return
            is_read, error = self._read()
            with self._change:
                self._error, self._ended = error, not is_read and error is None
                self._written += is_read
                if not is_read or self._ready >= self._wanted:
                    self._change.notify_all()
                if not is_read:
                    return

    def _over(self, mine: threading.Thread) -> bool:
        return self._stopping or self._thread is not mine

    def _read(self) -> tuple[bool, BaseException | None]:
        """Whether there was another batch, and what went wrong."""
        try:
            batch = self._next()
        except BaseException as error:
            self._failed = True
            error.add_note("This was raised by the source of a Stream.")
            return False, error
        try:
            if batch is not _END:
                self.form.read(batch, self._at(self._written))
            return batch is not _END, None
        except Exception as error:
            error.add_note(f"This is about batch {self._of_epoch - 1} of the source, from 0.")
            return False, error

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

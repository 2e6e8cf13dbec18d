"""The only loop: compiled chunks of steps, with the host reporting in between."""

import contextlib
import dataclasses
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm.auto import tqdm

from numpyro_vi_ext.algorithm import Point, State
from numpyro_vi_ext.batching.supply import Supply
from numpyro_vi_ext.chunk import MAX_STEPS, NEVER, Chunk
from numpyro_vi_ext.errors import Converged
from numpyro_vi_ext.history import History

logger = logging.getLogger("numpyro_vi_ext")

MOST_STEPS = 2**31 - 2**20  # in one fit, for steps are counted in 32 bits
_CHUNK_SECONDS = 0.1  # chunks grow until they take this long
_ENDED = "The data of a Stream ended after {:,d} steps"
_FIRST_CHUNK = 1  # for a step of many particles may take seconds

Hook = Callable[[int, Point], None]  # (step, result at that step); StopIteration stops the fit


class Prepared(NamedTuple):
    """What comes of the work before the first step."""

    chunk: Chunk
    state: State
    warmup: str


@dataclasses.dataclass
class Run:
    """A fit under way, or done: what `train` advances.

    Parameters
    ----------
    chunk : Chunk
        The compiled steps.
    state : State
        Where the fit stands; always finite.
    supply : Supply
        Data of the model.
    score : bool
        Whether losses are recorded.
    pending : callable or None
        What is still to be done before the first step: is given a function that reports, and tells
        whether to give up; returns None if it did.
    warmup : str
        What was done, in words.
    history : History
        Losses since the first step of this fit.
    status : str
        How the last call of `train` ended: "finished", "converged", "stopped", "interrupted" or
        "non-finite".
    message : str
        The same in words.
    """

    chunk: Chunk
    state: State
    supply: Supply
    score: bool
    pending: Callable[[Callable[[str], bool]], Prepared | None] | None = None
    warmup: str = ""
    history: History = dataclasses.field(default_factory=History)
    status: str = "initialized"
    message: str = ""
    last: float = math.nan  # the last loss, recorded or not

    @property
    def step(self) -> int:
        """Steps taken."""
        return int(self.state.step)

    def prepare(self, report: Callable[[str], bool]) -> None:
        """Do what is to be done before the first step, unless it was done."""
        found = self.pending and self.pending(report)
        if found:
            self.chunk, self.state, self.warmup = found
            self.pending = None

    def advance(self, end: int, every: int) -> tuple[Point, bool]:
        """Take steps up to step `end`; at a non-finite one, stay at the last finite state.

        Their data must have been prepared.

        Returns
        -------
        snapshots : Point
            Results at the multiples of `every` passed, stacked.
        finite : bool
            Whether all went well.
        """
        begin = self.state
        state, losses, snapshots, finite = self.chunk(begin, self.supply.inputs, end, every)
        finite = finite
        if not finite:
            good = self._last_finite(begin, int(state.step))
            losses = losses[: good - int(begin.step)]
            state = self.chunk(begin, self.supply.inputs, good, NEVER)[0]
        if self.score:
            self.history.extend(losses)
        self.last = float(losses[-1]) if len(losses) else self.last
        self.state = state  # last: if Ctrl-C comes in between, the history is the one too long
        return snapshots, finite

    def rewind(self, begin: State, step: int) -> None:
        """Go back to `step`, recomputed from an earlier state."""
        if step < self.step:
            self.state = self.chunk(begin, self.supply.inputs, step, NEVER)[0]
        self.history.cut(step)

    def _last_finite(self, begin: State, bad: int) -> int:
        """The last step before the `bad` one whose state is finite; by bisection.

        A chunk stops at the first loss that is not finite, so that `bad` is never beyond it.
        """
        low = int(begin.step)
        while bad - low > 1:
            middle = (low + bad) // 2
            finite = self.chunk(begin, self.supply.inputs, middle, NEVER)[3]
            low, bad = (middle, bad) if finite else (low, middle)
        return low


def train(
    run: Run,
    n: int,
    *,
    hook: Hook | None = None,
    every: int = NEVER,
    at_first: bool = False,
    progressbar: bool = True,
) -> None:
    """Take `n` more steps, unless something stops the fit; `run` says how it ended.

    Parameters
    ----------
    run : Run
        Advanced in place, also when the hook raises.
    n : int
        Steps.
    hook : callable, optional
        Called with ``(step, result)`` at the multiples of `every`, in order, with the result of
        that very step. StopIteration or KeyboardInterrupt from it stop the fit at that step; any
        other exception propagates, after the fit was set back to that step.
    at_first : bool
        Whether the hook is called at step 1 as well.
    progressbar : bool
        Whether to show progress.
    """
    begin = run.step
    run.status, run.message = "finished", ""
    reading = run.supply.open(lambda: run.step)
    with _interruptible() as interrupted, _bar(n, progressbar) as bar, reading:

        def report(text: str) -> bool:
            bar.set_description_str(text)
            return interrupted()

        try:
            if n:
                run.prepare(report)
            _advance(run, begin + n, hook, every, at_first, interrupted, bar)
        except KeyboardInterrupt:  # a second Ctrl-C: give up what is under way
            run.status = "interrupted"
            run.history.cut(run.step)
        except BaseException:
            run.status = "stopped"
            raise
    _report(run, run.step - begin, n, progressbar)


def _advance(
    run: Run,
    end: int,
    hook: Hook | None,
    every: int,
    at_first: bool,
    interrupted: Callable[[], bool],
    bar: Any,
) -> None:
    """Take chunk after chunk, each so long that a report after it comes soon enough."""
    length = _FIRST_CHUNK
    if interrupted():
        run.status = "interrupted"
    while run.step < end and run.status == "finished":
        before, state, tic = run.step, run.state, time.perf_counter()
        stop = min(end, before + length, (before // every + run.chunk.snapshots) * every)
        first = at_first and before == 0
        stop = run.supply.prepare(before, 1 if first else stop, interrupted)
        if stop == before:
            run.status = "interrupted" if interrupted() else "finished"
            run.message = "" if interrupted() else _ENDED.format(before)
            return
        snapshots, finite = run.advance(stop, every)
        if hook is not None:
            due = _due(before, run.step, every, snapshots, run.state.frame)
            if first and run.step == 1 < every:
                due = [(1, run.state.result)]
            _replay(run, hook, due, state, interrupted)
        if run.status == "finished" and not finite:
            run.status = "non-finite"
        elif run.status == "finished" and interrupted() and run.step < end:
            run.status = "interrupted"
        bar.update(run.step - before)
        bar.set_description_str(_describe(run), refresh=False)
        per_step = (time.perf_counter() - tic) / max(1, run.step - before)
        length = max(1, min(MAX_STEPS, 8 * length, int(_CHUNK_SECONDS / max(per_step, 1e-9))))


def _describe(run: Run) -> str:
    """What stands at the bar."""
    if len(run.history):
        return f"Average Loss = {run.history.average():,.5g}"
    return f"{run.chunk.objective.label} = {run.last:,.5g}"


def _due(
    before: int, after: int, every: int, snapshots: Point, frame: Any
) -> Iterator[tuple[int, Point]]:
    """The steps at which the hook is due, with the results recorded there."""
    first = (before // every + 1) * every
    if first > after:
        return
    if frame is not None:
        snapshots = _through(snapshots, frame)
    leaves, treedef = jax.tree.flatten(jax.device_get(snapshots))
    for slot, step in enumerate(range(first, after + 1, every)):
        # copied, so that a callback that keeps one does not keep them all
        yield step, jax.tree.unflatten(treedef, [x[slot].copy() for x in leaves])


@jax.jit
def _through(snapshots: Point, frame: Any) -> Point:
    """Out of the frame."""
    return jax.vmap(lambda point: point.through(frame))(snapshots)


def _replay(
    run: Run,
    hook: Hook,
    due: Iterable[tuple[int, Point]],
    begin: State,
    interrupted: Callable[[], bool],
) -> None:
    """Call the hook at each due step; when it stops the fit, go back to that step."""
    for step, result in due:
        try:
            hook(step, result)
        except StopIteration as stop:
            run.status = "converged" if isinstance(stop, Converged) else "stopped"
            run.message = str(stop)
        except KeyboardInterrupt:
            run.status = "interrupted"
        except BaseException:
            run.rewind(begin, step)
            raise
        if run.status == "finished" and interrupted() and step < run.step:
            run.status = "interrupted"
        if run.status != "finished":
            run.rewind(begin, step)
            return


def _report(run: Run, done: int, n: int, show: bool) -> None:
    """Log how it ended, and keep it as the message of the run."""
    if run.message:
        _say(run.message, show)
    if run.step == 0 == n:
        text = "Initialization only"
    elif run.status == "non-finite":
        return
    else:
        head = "Finished [100%]"
        if run.status != "finished" or done < n:
            how = "Finished" if run.status == "finished" else "Interrupted"
            head = f"{how} at {run.step:,d} [{100 * done // n:.0f}%]"
        text = head
        if len(run.history) and n < 10:
            text += f": Loss = {run.history.view()[-1]:,.5g}"
        elif len(run.history):
            text += f": Average Loss = {run.history.average():,.5g}"
    _say(text, show)
    remark = run.chunk.objective.remark(run.state.result.q, run.state.memory)
    if remark:
        _say(remark, show)
    run.message = "\n".join(filter(None, [run.message or text, remark]))


def _say(text: str, show: bool) -> None:
    """Log; where logging does not show it, write it below the progress bar, if that is shown."""
    logger.info(text)
    logged = logger.hasHandlers() and logger.isEnabledFor(logging.INFO)
    if show and not logged and logger.level <= logging.INFO:
        tqdm.write(text, file=sys.stderr)


@contextlib.contextmanager
def _bar(n: int, show: bool) -> Iterator[Any]:
    bar = tqdm(total=n, disable=not show or n == 0, unit="step")
    try:
        yield bar
    finally:
        bar.close()


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """While active, the first Ctrl-C asks for a stop between chunks; a second one raises.

    Only the main thread can install signal handlers; elsewhere nothing is changed.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(signum: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if previous is None else previous)

"""The only loop: compiled chunks of steps, with the host reporting in between."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from numpyro_vi_ext.algorithm import Point, State, result_of
from numpyro_vi_ext.chunk import MAX_STEPS, NEVER
from numpyro_vi_ext.convergence import next_mark
from numpyro_vi_ext.errors import Converged
from numpyro_vi_ext.reporting import bar_of, describe, interruptible, report
from numpyro_vi_ext.run import Run

MOST_STEPS = 2**31 - 2**20  # in one fit, for steps are counted in 32 bits
_CHUNK_SECONDS = 0.1  # chunks grow until they take this long
_ENDED = "The data of a Stream ended after {:,d} steps"
_SETTLED = "Converged at {:,d}: {}"
_FIRST_CHUNK = 1  # for a step of many particles may take seconds
Hook = Callable[[int, Point], None]  # (step, result at that step); StopIteration stops the fit


def train(
    run: Run,
    n: int,
    *,
    hook: Hook | None = None,
    every: int = NEVER,
    at_first: bool = False,
    until_settled: bool = False,
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
    until_settled : bool
        Whether to stop when the fit has come to rest.
    progressbar : bool
        Whether to show progress.
    """
    begin = run.step
    reading = run.supply.open(lambda: run.step)
    with interruptible() as interrupted, bar_of(n, progressbar) as bar, reading:
        run.status, run.message, run.motion = "finished", "", ""

        def tell(text: str) -> bool:
            bar.set_description_str(text)
            return interrupted()

        try:
            if n:
                run.prepare(tell)
            _advance(run, begin + n, hook, every, at_first, until_settled, interrupted, bar)
        except KeyboardInterrupt:  # a second Ctrl-C: give up what is under way
            run.status = "interrupted"
            run.history.cut(run.step)
        except BaseException:
            run.status = "stopped"
            raise
    done = run.step - begin
    is_settled = until_settled and run.status == "converged"
    report(run, done, done if is_settled else n, progressbar)


def _advance(
    run: Run,
    end: int,
    hook: Hook | None,
    every: int,
    at_first: bool,
    until_settled: bool,
    interrupted: Callable[[], bool],
    bar: Any,
) -> None:
    """Take chunk after chunk, each so long that a report after it comes soon enough."""
    length = _FIRST_CHUNK
    if interrupted():
        run.status = "interrupted"
    while run.step < end and run.status == "finished":
        before, state, tic = run.step, run.state, time.perf_counter()
        mark = next_mark(before)
        stop = min(end, before + length, mark, (before // every + run.chunk.snapshots) * every)
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
                due = [(1, result_of(run.state))]
            _replay(run, hook, due, state, interrupted)
        if run.status == "finished" and finite and run.step == mark:
            _look(run, until_settled)
        if run.status == "finished" and not finite:
            run.status = "non-finite"
        elif run.status == "finished" and interrupted() and run.step < end:
            run.status = "interrupted"
        bar.update(run.step - before)
        bar.set_description_str(describe(run), refresh=False)
        per_step = (time.perf_counter() - tic) / max(1, run.step - before)
        length = max(1, min(MAX_STEPS, 8 * length, int(_CHUNK_SECONDS / max(per_step, 1e-9))))


def _look(run: Run, until_settled: bool) -> None:
    """Look at a fit at a mark, and end it if it has come to rest and that is asked for."""
    settled = run.watch.look(run.step, run.state, run.losses) and math.isfinite(run.last)
    if settled and until_settled:
        run.status, run.message = "converged", _SETTLED.format(run.step, run.watch.settled)


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

"""What a user sees and hears of a fit: the bar, the closing lines, Ctrl-C."""

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Generator
from typing import Any

from tqdm.auto import tqdm

from numpyro_vi_ext.run import Run

logger: logging.Logger = logging.getLogger("numpyro_vi_ext")


def describe(run: Run) -> str:
    """What stands at the bar."""
    skipped = int(run.state.skipped)
    more = f", {skipped:,d} steps skipped" if skipped else ""
    if len(run.history):
        return f"Average Loss = {run.history.average():,.5g}{more}"
    return f"{run.chunk.objective.label} = {run.last:,.5g}{more}"


def report(run: Run, done: int, n: int, show: bool) -> None:
    """Log how it ended, and keep it as the message of the run."""
    if run.message:
        _say(run.message, show)
    run.motion, still = run.watch.judge(run.step, run.state, run.losses)
    if run.status == "non-finite":
        return
    text = "Initialization only" if run.step == 0 == n else _ending(run, done, n)
    _say(text, show)
    skipped = int(run.state.skipped)
    remarks = [
        f"{skipped:,d} steps were not finite, and skipped" if skipped else "",
        run.chunk.objective.remark(run.state.framed_result.q, run.state.memory),
        still if run.status == "finished" else "",
    ]
    for remark in filter(None, remarks):
        _say(remark, show)
    run.message = "\n".join(filter(None, [run.message or text, *remarks]))


def _ending(run: Run, done: int, n: int) -> str:
    """How it ended, in PyMC's words."""
    text = "Finished [100%]"
    if done < n:
        how = "Finished" if run.status == "finished" else "Interrupted"
        text = f"{how} at {run.step:,d} [{100 * done // n:.0f}%]"
    if len(run.history) and n < 10:
        return f"{text}: Loss = {run.history.view()[-1]:,.5g}"
    if len(run.history):
        return f"{text}: Average Loss = {run.history.average():,.5g}"
    return text


def _say(text: str, show: bool) -> None:
    """Log; where logging does not show it, write it below the progress bar, if that is shown."""
    logger.info(text)
    logged = logger.hasHandlers() and logger.isEnabledFor(logging.INFO)
    if show and not logged and logger.level <= logging.INFO:
        tqdm.write(text, file=sys.stderr)


@contextlib.contextmanager
def bar_of(n: int, show: bool) -> Generator[Any]:
    """A progress bar of so many steps."""
    bar = tqdm(total=n, disable=not show or n == 0, unit="step")
    try:
        yield bar
    finally:
        bar.close()


@contextlib.contextmanager
def interruptible() -> Generator[Callable[[], bool]]:
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

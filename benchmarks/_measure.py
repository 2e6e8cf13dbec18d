"""Interleaved timing, and the tables that go into docs/benchmarks.md."""

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import jax
from _peers import Attempt, versions

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
Run = Callable[[], object]

PAUSE = 0.25  # seconds in which threads that wait for more work fall asleep


def interleaved(rounds: int, candidates: dict[str, Run], warm: int = 1) -> dict[str, float]:
    """Median seconds of each candidate, run in turn A B C A B C ... after `warm` rounds.

    What a candidate returns is waited for, and there is a pause before each, so that none is
    charged with work or with threads of the one before it. An `Attempt` that has failed has a time
    that means nothing.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(rounds + warm):
        for name, run in candidates.items():
            time.sleep(PAUSE)
            began = time.perf_counter()
            jax.block_until_ready(run())
            if i >= warm:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def rates(rounds: int, loops: dict[str, tuple[Run, int]]) -> dict[str, float | str]:
    """Steps per second of runs of so many steps each; or why a peer has none."""
    seconds = interleaved(rounds, {name: run for name, (run, _) in loops.items()})
    found: dict[str, float | str] = {}
    for name, (run, steps) in loops.items():
        failure = run.failure if isinstance(run, Attempt) else ""
        found[name] = failure or steps / seconds[name]
        if isinstance(run, Attempt):
            run.close()
    return found


def rate_rows(
    found: dict[str, float | str], reference: str, inverse: bool = False
) -> list[list[str]]:
    """Rows of rates and ratios to the reference; `inverse`: how much faster the reference is."""
    rows = []
    for name, rate in found.items():
        if isinstance(rate, str):
            rows.append([name, rate, "-"])
            continue
        ratio = rate / found[reference]
        rows.append([name, number(rate), number(1 / ratio if inverse else ratio)])
    return rows


def number(x: float) -> str:
    """Three digits or more, thousands separated."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def processor() -> str:
    """The model of the CPU as its maker calls it, or its architecture."""
    info = Path("/proc/cpuinfo")  # Linux
    named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.exists() else None
    return named[1].strip() if named else platform.processor() or platform.machine()


def machine(peers: tuple[str, ...] = ()) -> str:
    """Where and with what the figures were taken."""
    packages = ", ".join(f"{p} {version(p)}" for p in ("numpyro", "jax", "optax", "arviz"))
    others = f"; {versions(*peers)}" if peers else ""
    return (
        f"{platform.system()} {platform.machine()}, {processor()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {packages}{others}"
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markers(section: str) -> tuple[str, str]:
    """What stands before and after the text of a section."""
    return f"<!-- begin {section} -->", f"<!-- end {section} -->"


def publish(section: str, text: str, peers: tuple[str, ...] = (), page: Path = PAGE) -> None:
    """Print a section, and put it between its markers in docs/benchmarks.md."""
    body = f"{text}\n\nMeasured on {machine(peers)}."
    print(f"\n## {section}\n\n{body}\n")
    begin, end = markers(section)
    whole = page.read_text()
    if begin not in whole or end not in whole:
        raise SystemExit(f"{page} has no markers for the section {section!r}")
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    page.write_text(pattern.sub(lambda _: f"{begin}\n{body}\n{end}", whole))


def fresh(code: str) -> str:
    """What a piece of Python prints in a process of its own, in this folder."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    folder = Path(__file__).parent
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=folder).stdout


def run_chosen(*measures: Callable[[], None]) -> None:
    """Run those that the command line names, or all if it names none."""
    for measure in measures:
        if not sys.argv[1:] or measure.__name__ in sys.argv[1:]:
            measure()

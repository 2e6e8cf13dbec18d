"""Interleaved timing, and the tables that go into docs/benchmarks.md."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def interleaved(
    rounds: int, candidates: dict[str, Callable[[], object]], warm: int = 1
) -> dict[str, float]:
    """Median seconds of each candidate, run in turn A B C A B C ... after `warm` rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(rounds + warm):
        for name, run in candidates.items():
            began = time.perf_counter()
            run()
            if i >= warm:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def machine() -> str:
    """Where and with what the figures were taken."""
    packages = ", ".join(f"{p} {version(p)}" for p in ("numpyro", "jax", "optax", "arviz"))
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {packages}"
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(section: str, text: str) -> None:
    """Print a section, and put it between its markers in docs/benchmarks.md."""
    body = f"{text}\n\nMeasured on {machine()}."
    print(f"\n## {section}\n\n{body}\n")
    begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
    page = PAGE.read_text()
    if begin not in page:
        raise SystemExit(f"{PAGE} has no markers for the section {section!r}")
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    PAGE.write_text(pattern.sub(lambda _: f"{begin}\n{body}\n{end}", page))

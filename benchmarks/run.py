"""Rerun what docs/benchmarks.md shows: ``make benchmarks``, or some of it,

    make benchmarks SECTIONS="mixture iris_particles"
    python benchmarks/run.py mixture iris_particles
    python benchmarks/run.py --quick

``--quick`` leaves out the sections that take longest; ``--list`` names all, with about how many
minutes each takes on two idle cores. Each runs in a process of its own. One that fails does not
end the run; the summary at the end says what was the matter, and the exit status is then 1.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from _measure import table
from _peers import for_table

HERE = Path(__file__).parent


class Section(NamedTuple):
    """A part of the page and what makes it; `elsewhere`: what writes no text on the page."""

    name: str
    command: str  # a script in this folder, and its arguments
    minutes: float  # about
    long: bool = False
    elsewhere: bool = False


PEERS = "svi_1e-3 svi_1e-2 svi_mvn_1e-3 svi_mvn_1e-2 pymc_advi pymc_fullrank_advi extras_advi"
SECTIONS = (
    Section("peers", "seed.py", 10),
    Section("mixture", "speed.py mixture_steady", 1),
    Section("latency", "speed.py second_fit_and_callbacks", 1),
    Section("first fit", "speed.py first_fit", 2),
    Section("full batch", "speed.py full_batch", 1),
    Section("batch axis", "speed.py batch_axis", 1),
    Section("full rank", "speed.py full_rank", 1),
    Section("draws", "speed.py sample_dict", 1),
    Section("sample", "using.py sample", 1),
    Section("nodes", "using.py nodes", 1),
    Section("empirical", "using.py empirical", 1),
    Section("particles", "particles.py mixture_particles", 3),
    Section("iris particles", "particles.py iris_particles", 2),
    Section("spread", "spread.py", 3),
    Section("particle cost", "particle_cost.py particle_cost", 2),
    Section("particle memory", "particle_cost.py particle_memory", 1),
    Section("minibatch", "minibatch.py in_memory", 2),
    Section("minibatch_lengths", "minibatch.py over_lengths", 3),
    Section("streaming", "streaming.py", 5),
    Section("trust", "trust.py", 3),
    Section("diagnose", "checking.py diagnose", 5),
    Section("vsbc", "checking.py vsbc", 1),
    Section("importance", "importance.py", 3),
    Section("estimators", "estimators.py", 3),
    Section("accuracy", "accuracy/run.py --publish accuracy", 20, long=True),
    Section(
        "accuracy_peers",
        f"accuracy/run.py --publish accuracy_peers --seeds 0 --methods {PEERS}",
        15,
        long=True,
    ),
    Section("accuracy picture", "accuracy/picture.py", 1, elsewhere=True),
    Section("stopping", "stopping.py", 10, long=True),
)


class Outcome(NamedTuple):
    """How a section went: the last line of its error, if any."""

    name: str
    seconds: float
    error: str


def run(section: Section) -> Outcome:
    """Run one; its output goes on to ours."""
    script, *arguments = section.command.split()
    command = [sys.executable, "-u", "-W", "ignore", str(HERE / script), *arguments]
    print(f"--- {section.name}: {section.command}", flush=True)
    began = time.perf_counter()
    last = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            last = line if line.strip() else last
    failed = process.returncode != 0
    error = for_table(last) or f"exit status {process.returncode}" if failed else ""
    return Outcome(section.name, time.perf_counter() - began, error)


def chosen(names: Iterable[str], quick: bool = False) -> list[Section]:
    """Sections by name, with underscores or hyphens for spaces; all if none is named.

    Raises
    ------
    KeyError
        If there is no such section.
    """
    known = {_plain(section.name): section for section in SECTIONS}
    missing = [name for name in names if _plain(name) not in known]
    if missing:
        raise KeyError(f"no section {missing}; there are {', '.join(known)}")
    found = [known[_plain(name)] for name in names] or [*SECTIONS]
    return [section for section in found if not (quick and section.long)]


def _plain(name: str) -> str:
    return name.replace(" ", "_").replace("-", "_")


def summary(outcomes: list[Outcome]) -> str:
    rows = [
        [o.name, f"{o.seconds:.0f}", f"failed: {o.error}" if o.error else "ok"] for o in outcomes
    ]
    return table(["section", "seconds", "outcome"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", help="which; all if none is named")
    parser.add_argument("--quick", action="store_true", help="without the ones that take longest")
    parser.add_argument("--list", action="store_true", help="name the sections, and end")
    given = parser.parse_args()
    try:
        sections = chosen(given.sections, given.quick)
    except KeyError as error:
        parser.error(error.args[0])
    if given.list:
        rows = [[_plain(s.name), f"{s.minutes:g}", s.command] for s in sections]
        print(table(["section", "minutes", "command"], rows))
        return 0
    outcomes = [run(section) for section in sections]
    print(f"\n{summary(outcomes)}")
    return int(any(outcome.error for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

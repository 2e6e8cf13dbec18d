"""How far fits are from known answers: ``python benchmarks/accuracy/run.py``.

For each case and method, over seeds: the worst and the mean error of a posterior mean in posterior
standard deviations, in unconstrained space; the ratio of standard deviations to the posterior's and
to those of the best Gaussian of the family; the ELBO; seconds. Some of it only:

    run.py --methods advi svi_1e-2 --cases wine gp --seeds 0 1 --n 20000 --option obj_n_mc=4

PyMC's methods, pymc_advi, pymc_fullrank_advi and extras_advi, have to be named. A first fit of a
``_rescaled`` case is not a first one if its original came before: nothing is compiled.
"""

import argparse
import ast
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fits import METHODS, PYMC, Fitted, has
from models import CASES, Case
from stored import reference

sys.path.insert(0, str(Path(__file__).parent.parent))
from _measure import publish, table  # from the folder above

USUAL = [method for method in METHODS if method not in PYMC]  # PyMC has to be asked for
NEAR = 0.1  # posterior sds that a mean may be off where the posterior is near a Gaussian

FOOTNOTE = (
    f"* not near a Gaussian, or the best q of the family is itself {NEAR} sd off: not counted "
    "below. Errors are those of the worst seed, in posterior sds."
)
HEADER = [
    "case",
    "method",
    "worst",
    "mean",
    "from best q",
    "sd / posterior",
    "log",
    "sd / best q",
    "log",
    "ELBO",
    "first s",
    "later s",
    "notes",
]


def score(case: Case, family: str, fitted: Fitted) -> dict[str, float]:
    """One fit against what is known; NaN becomes infinite error."""
    known = reference(case.name)
    error = np.abs(fitted.mean - known.mean) / known.sd
    found = {"worst": error.max(), "mean": error.mean(), **ratios("truth", fitted.sd / known.sd)}
    if family in known.optima:
        mean, sd = known.optima[family]
        found["from_optimum"] = np.max(np.abs(fitted.mean - mean) / known.sd)
        found.update(ratios("optimum", fitted.sd / sd))
    found = {name: float(value) if value == value else np.inf for name, value in found.items()}
    return {**found, "elbo": fitted.elbo, "seconds": fitted.seconds}


def ratios(against: str, ratio: np.ndarray) -> dict[str, Any]:
    log, name = np.mean(np.abs(np.log(ratio))), f"sd_{against}"
    return {f"{name}_min": ratio.min(), f"{name}_max": ratio.max(), f"log_{against}": log}


def measure(case: Case, method: str, options: dict[str, Any], seeds: list[int], n: int) -> Any:
    """A score for each seed, and a second fit of the only one, for its time."""
    family, make = METHODS[method]
    fit = make(options)
    runs = [fit(case, seed, n) for seed in seeds]
    later = [run.seconds for run in runs[1:]] or [fit(case, seeds[0], n).seconds]
    return {
        "case": case.name,
        "method": method,
        "attainable": attainable(case, family),
        "notes": sorted({run.note for run in runs} - {""}),
        "first": runs[0].seconds,
        "later": float(np.median(later)),
        "seeds": {str(s): score(case, family, run) for s, run in zip(seeds, runs, strict=True)},
    }


def attainable(case: Case, family: str) -> bool:
    """Whether a mean within `NEAR` can be asked for: the best q may be farther off."""
    known = reference(case.name)
    best = known.optima.get(family, (known.mean, known.sd))[0]
    return case.near_gaussian and bool(np.max(np.abs(best - known.mean) / known.sd) < NEAR)


def over_seeds(result: dict[str, Any], name: str, how: Callable[..., Any]) -> float:
    values = [found[name] for found in result["seeds"].values() if name in found]
    return float(how(values)) if values else np.nan


def row(result: dict[str, Any]) -> list[str]:
    """A line of the table: the worst seed for errors, the median for the rest."""

    def cell(name: str, how: Callable[..., Any] = np.max) -> str:
        value = over_seeds(result, name, how)
        return "-" if np.isnan(value) else f"{value:.3g}"

    def span(against: str) -> list[str]:
        low, high = cell(f"sd_{against}_min", np.min), cell(f"sd_{against}_max")
        return ["-" if low == "-" else f"{low} to {high}", cell(f"log_{against}")]

    hard = "" if result["attainable"] else "*"
    elbo = f"{over_seeds(result, 'elbo', np.median):,.2f}"
    times = [f"{result[name]:.2f}" for name in ("first", "later")]
    errors = [cell(name) for name in ("worst", "mean", "from_optimum")]
    cells = [*errors, *span("truth"), *span("optimum"), elbo, *times, "; ".join(result["notes"])]
    return [result["case"] + hard, result["method"], *cells]


def summary(results: list[dict[str, Any]], method: str) -> str:
    """A method: where something can be asked of it, against the best q, and everywhere."""
    mine = [r for r in results if r["method"] == method]
    if not mine:
        return f"{method}: nothing"
    parts = [
        _spread("posterior", [r for r in mine if r["attainable"]], "worst"),
        _spread("best q", mine, "from_optimum"),
    ]
    everywhere = np.median([over_seeds(r, "worst", np.max) for r in mine])
    parts.append(f"median of worst over all {len(mine)} {everywhere:.3g}")
    parts.append(f"{sum(r['later'] for r in mine):.1f} s a round")
    return f"{method}: " + "; ".join(parts)


def _spread(against: str, results: list[dict[str, Any]], name: str) -> str:
    worst = {r["case"]: over_seeds(r, name, np.max) for r in results}
    worst = {case: value for case, value in worst.items() if not np.isnan(value)}
    if not worst:
        return f"nothing against the {against}"
    good = sum(value < NEAR for value in worst.values())
    at = max(worst, key=worst.__getitem__)
    return (
        f"{good} of {len(worst)} cases within {NEAR} sd of the {against}, median "
        f"{np.median(list(worst.values())):.3g}, largest {worst[at]:.3g} ({at})"
    )


def read_options(given: list[str]) -> dict[str, Any]:
    """``name=value``, the value a Python literal or else a string."""
    options = {}
    for item in given:
        name, _, text = item.partition("=")
        try:
            options[name] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            options[name] = text
    return options


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="*", default=USUAL)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--n", type=lambda text: text if text == "auto" else int(text), default=10_000
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--earlier", nargs="*", type=Path, default=[], help="results to add")
    parser.add_argument("--publish", help="the section of docs/benchmarks.md to write")
    parser.add_argument("--option", action="append", default=[], help="of fit, as name=value")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    options, results = read_options(given.option), []
    for name in given.cases:
        try:
            reference(name)
        except KeyError:
            print(f"{name}: no reference", file=sys.stderr)
            continue
        for method in filter(lambda method: has(method, CASES[name]), given.methods):
            results.append(measure(CASES[name], method, options, given.seeds, given.n))
            print(" ".join(row(results[-1])[:3]), file=sys.stderr, flush=True)
            if given.json:  # after each, for a run that is cut short
                given.json.write_text(json.dumps(results, indent=1))
    for path in given.earlier:
        results += json.loads(path.read_text())
    results.sort(key=lambda found: list(CASES).index(found["case"]))
    methods = dict.fromkeys(found["method"] for found in results)
    parts = [table(HEADER, [row(result) for result in results]), FOOTNOTE]
    text = "\n\n".join([*parts, *(summary(results, method) for method in methods)])
    others = ("pymc", "pymc-extras") if set(methods) & set(PYMC) else ()
    publish(given.publish, text, others) if given.publish else print(text)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()

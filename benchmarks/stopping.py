"""Where fits should stop, and where they do: the loss rule, the rule of n="auto", made-up traces.

Every fit runs for the whole budget; what the rules would have done is read off its record, so that
one record serves all of them. There are fits with the warm-up, as by default, and without: only
there does a loss fall for long. References are the mean of two fits of 200,000 steps of the same
family. Takes a few minutes; names of models as arguments make it shorter, and publish nothing, nor
do fits and traces of other seeds: ``--first-seed 300``.
"""

import argparse
from typing import Any, NamedTuple

import numpy as np
from _measure import publish, table
from _stopping_models import Case, cases

import numpyro_vi_ext as vi
from numpyro_vi_ext.callbacks import CheckLossConvergence
from numpyro_vi_ext.convergence import Mark, kept, motion, next_mark

BUDGET, REFERENCE, SEEDS, TRACES = 60_000, 200_000, 10, 50
MEAN_ERROR, SCALE_ERROR = 0.1, 0.05  # standard deviations; log
STEPS = np.arange(float(BUDGET))

# Still improving: a linear fall, or one of which 2 % and more are left at every step of the budget.
# Noise has sd 1 unless said; the whole linear fall is 12 to 120 of them.
IMPROVING = {
    "linear": lambda g: -g.uniform(2e-4, 2e-3) * STEPS + g.normal(size=BUDGET),
    "power law": lambda g: (
        np.exp(g.uniform(np.log(100), np.log(1000)))
        * (1 + STEPS / np.exp(g.uniform(np.log(100), np.log(1000)))) ** -g.uniform(0.3, 0.6)
        + g.normal(size=BUDGET)
    ),
    "sd changes from 0.5 to 2.5": lambda g: (
        -g.uniform(5e-4, 2e-3) * STEPS
        + (0.5 + 2 * np.sin(STEPS / g.uniform(1000, 5000) + g.uniform(0, 6)) ** 2)
        * g.normal(size=BUDGET)
    ),
    "Student-t noise, 1.5 to 4": lambda g: (
        -g.uniform(5e-4, 2e-3) * STEPS + g.standard_t(g.uniform(1.5, 4), size=BUDGET)
    ),
}


class Record(NamedTuple):
    """A fit over the whole budget."""

    losses: np.ndarray
    trail: list[Mark]


def begin(case: Case, seed: int) -> Any:
    """A fit of a case before its first step."""
    kind = {"advi": vi.ADVI, "fullrank_advi": vi.FullRankADVI}[case.method]
    return kind(case.model, model_args=case.args, random_seed=seed)


def plain_losses(case: Case, seed: int) -> np.ndarray:
    """Losses of a fit without the warm-up."""
    fit = begin(case, seed)
    fit.fit(BUDGET, progressbar=False, warmup=False)
    return fit.hist.astype(float)


def run(case: Case, seed: int) -> Record:
    """Fit, with the result at every mark of the grid."""
    fit, trail, step = begin(case, seed), [], 0
    while step < BUDGET:
        end = min(BUDGET, next_mark(step))
        advance = fit.refine if step else fit.fit
        q, step = advance(end - step, progressbar=False), end
        trail.append((step, np.array(q.mean, float), np.array(q.std, float)))
    return Record(fit.hist.astype(float), trail)


def smooth(losses: np.ndarray, half: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Means of the losses `half` steps before and after the steps `at`."""
    total = np.concatenate([[0.0], np.cumsum(losses)])
    low, high = np.maximum(0, at - half), np.minimum(losses.size, at + half)
    return (total[high] - total[low]) / (high - low)


def step_99(losses: np.ndarray, start: float) -> tuple[int, float, float]:
    """Where 99 % of the fall is done, the final loss and the fall."""
    end = losses[-10_000:].mean()
    at = np.arange(1, losses.size + 1)
    done = smooth(losses, np.maximum(25, at // 10), at) <= end + 0.01 * (start - end)
    return int(at[done.argmax()]) if done.any() else losses.size, end, start - end


def loss_stop(losses: np.ndarray) -> int | None:
    """The step at which the callback stops."""
    check = CheckLossConvergence()
    try:
        for i in range(check.every, losses.size + 1, check.every):
            check(None, losses[:i], i)
    except StopIteration:
        return i
    return None


def is_early(losses: np.ndarray, stop: int, end: float, fall: float) -> bool:
    """Whether the loss at the stop is above that at the end, by 1 % of the fall and its noise."""
    near = losses[max(0, stop - stop // 10) : stop + stop // 10]
    return near.mean() - end > 0.01 * abs(fall) + 3 * near.std() / np.sqrt(near.size)


def errors(mark: Mark, reference: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """The worst error of a mean in standard deviations, and of a log standard deviation."""
    mean, sd = reference
    return np.abs((mark[1] - mean) / sd).max(), np.abs(np.log(mark[2] / sd)).max()


def auto_stop(record: Record) -> int | None:
    """Index of the mark at which n="auto" would stop."""
    trail: list[Mark] = []
    for k, mark in enumerate(record.trail):
        trail = kept([*trail, mark])
        if motion(trail, record.losses[: mark[0]]).settled:
            return k
    return None


def earliest(record: Record, reference: tuple[np.ndarray, np.ndarray]) -> float:
    """The first mark from which on the errors are small at all marks."""
    step = np.inf
    for mark in reversed(record.trail):
        mean, scale = errors(mark, reference)
        if mean > MEAN_ERROR or scale > SCALE_ERROR:
            break
        step = mark[0]
    return step


def loss_row(
    case: Case, records: list[Record], reference: tuple[Any, Any], seeds: range
) -> list[str]:
    """What the loss rule does, without the warm-up and with it."""
    plain = [plain_losses(case, seed) for seed in seeds]
    start = float(np.median([losses[:3] for losses in plain]))
    done = [step_99(losses, start) for losses in plain]
    stops = [loss_stop(losses) for losses in plain]
    early = sum(
        stop is not None and is_early(losses, stop, end, fall)
        for losses, stop, (_, end, fall) in zip(plain, stops, done, strict=True)
    )
    steps, t99 = np.array([s or BUDGET for s in stops]), np.array([d[0] for d in done])
    warmed = [loss_stop(r.losses) or BUDGET for r in records]
    ends = [min(r.trail, key=lambda m: abs(m[0] - s)) for r, s in zip(records, warmed, strict=True)]
    worst = max(errors(mark, reference)[0] for mark in ends)
    return [
        case.name, f"{np.median(t99):,.0f}", f"{np.median(steps):,.0f}",
        f"{np.median(steps / t99):.2f}", str(early), str(stops.count(None)),
        f"{np.median(warmed):,.0f}", f"{worst:.3f}",
    ]  # fmt: skip


def auto_row(case: Case, records: list[Record], reference: tuple[Any, Any]) -> list[str]:
    """What n="auto" does."""
    auto = [auto_stop(r) for r in records]
    ends = [r.trail[-1 if k is None else k] for r, k in zip(records, auto, strict=True)]
    worst = np.array([errors(mark, reference) for mark in ends])
    settled = np.array([k is not None for k in auto])
    bad = settled & ((worst[:, 0] > MEAN_ERROR) | (worst[:, 1] > SCALE_ERROR))
    best = np.median([earliest(r, reference) for r in records])
    return [
        case.name, f"{best:,.0f}", f"{np.median([mark[0] for mark in ends]):,.0f}",
        f"{settled.sum()}", f"{bad.sum()}", f"{worst[:, 0].max():.3f}", f"{worst[:, 1].max():.3f}",
    ]  # fmt: skip


def rows_of(case: Case, seeds: range) -> tuple[list[str], list[str]]:
    """What both rules do on one model."""
    finals = [begin(case, 1000 + i).fit(REFERENCE, progressbar=False) for i in range(2)]
    moments = [q.mean for q in finals], [q.std for q in finals]
    mean, sd = (np.mean([np.array(f) for f in x], 0) for x in moments)
    records = [run(case, seed) for seed in seeds]
    return loss_row(case, records, (mean, sd), seeds), auto_row(case, records, (mean, sd))


def false_stops(seeds: range) -> list[list[str]]:
    """How many made-up traces of each kind, which still improve, the loss rule ends."""
    rows = []
    for k, (name, make) in enumerate(IMPROVING.items()):
        traces = (make(np.random.default_rng([k, seed])) for seed in seeds)
        rows.append(
            [name, str(sum(loss_stop(trace) is not None for trace in traces)), str(len(seeds))]
        )
    return rows


def main() -> None:
    """Publish the three tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*")
    parser.add_argument("--first-seed", type=int, default=0)
    given = parser.parse_args()
    seeds, traces = (range(given.first_seed, given.first_seed + k) for k in (SEEDS, TRACES))
    rows = []
    for case in cases():
        if given.models and case.name not in given.models:
            continue
        rows.append(rows_of(case, seeds))
        print(*rows[-1], sep="\n", flush=True)
    loss_rows, auto_rows = zip(*rows, strict=True)
    ratio = np.median([float(row[3]) for row in loss_rows])
    loss_header = ["model", "99 % of the fall", "stop", "ratio", "early", "no stop",
                   "stop after a warm-up", "worst mean error there (sd)"]  # fmt: skip
    auto_header = ["model", "errors small from", "stop", "settled", "wrongly",
                   "worst mean error (sd)", "worst log sd error"]  # fmt: skip
    parts = [
        f"`CheckLossConvergence`, medians over {SEEDS} seeds; the median of the ratios is "
        f"{ratio:.2f}:",
        table(loss_header, [*loss_rows]),
        f"Its stops on traces that still improve, {BUDGET:,} steps:",
        table(["trace", "stops", "of"], false_stops(traces)),
        f'`n="auto"`, medians over {SEEDS} seeds; errors at the stop, or at {BUDGET:,}:',
        table(auto_header, [*auto_rows]),
    ]
    text = "\n\n".join(parts)
    print(text) if given.models or given.first_seed else publish("stopping", text)


if __name__ == "__main__":
    main()

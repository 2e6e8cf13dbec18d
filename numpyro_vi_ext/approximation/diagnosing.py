"""From an approximation to the verdict on it: what is looked at, kind by kind."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import diagnostics

from numpyro_vi_ext import advice, beyond, evaluate, stein, weights
from numpyro_vi_ext.advice import Judgement, Past, SeenDensity, SeenRows
from numpyro_vi_ext.approximation.base import ApproximationBase, Facts
from numpyro_vi_ext.layout import Layout
from numpyro_vi_ext.shape import Shape, find_shape
from numpyro_vi_ext.verdict import Verdict

Array = jax.Array

_COLUMNS = 1024  # of draws whose moments are computed at once, in double precision


def diagnose_density(approx: ApproximationBase, key: Array, draws: int) -> Verdict:
    """The verdict on a q with a density, by the weights of draws from it."""
    if approx.ndim == 0:
        return _nothing(approx, draws)
    target, point, layout = approx.target, approx.point, approx.target.layout
    target.check_data("a verdict needs")
    found = weights.find_weights(target, point, key, draws)
    z = np.asarray(evaluate.draw_unconstrained(point, key, draws))
    shift, ratio = _moves(z, found.smoothed)
    is_random = target.program.is_random
    effective = np.nan if is_random else 1 / float(np.sum(found.smoothed**2))
    steps = np.spacing(np.abs(point.q.mean())) / point.q.std()  # between neighbouring numbers
    seen = SeenDensity(
        khat=found.khat,
        threshold=found.threshold,
        effective=effective / draws,
        lost=found.lost / draws,
        rounding=found.rounding,
        step=_worst(layout, steps, steps),
        is_random=is_random,
        is_dense=point.q.metric().ndim == 2,
        shift=_worst(layout, shift, np.abs(shift)),
        ratio=_worst(layout, ratio, np.abs(np.log(ratio))),
    )
    if not is_random:
        seen = seen._replace(**_labelled(layout, find_shape(z, found.log_weights, point.q)))
        far = beyond.look_beyond(target, point, jax.random.fold_in(key, 1), draws // 2)
        seen = seen._replace(beyond=far and (label(layout, far[0]), *far[1:]))
    elbo, se = evaluate.mean_and_error(found.log_weights)
    numbers = {"khat": None if is_random else found.khat, "khat_threshold": found.threshold}
    numbers |= {"elbo": elbo, "elbo_se": se, "draws": draws, "effective": effective}
    judged = advice.judge_density(seen, _past(approx.facts))
    table = _table(layout, shift, ratio)
    return _verdict(approx, judged, numbers, table[:0] if is_random else table)


def diagnose_rows(approx: ApproximationBase, draws: int) -> Verdict:
    """The verdict on a q made of rows, by Stein's identity: of at most so many of them."""
    if approx.ndim == 0:
        return _nothing(approx, draws)
    target, layout, rows = approx.target, approx.target.layout, approx.point.q.histogram
    target.check_data("a verdict needs")
    taken = rows[:: -(-len(rows) // draws)]
    scores = evaluate.scores(target, approx.point.theta, taken)
    spread = np.asarray(stein.spread_of(taken, jnp.asarray(scores)), float)
    sd = approx.std.astype(float)
    shift, noise = scores.mean(0, float) * sd, scores.std(0, float) * sd
    distinct = len(np.unique(np.asarray(rows), axis=0))
    sizes = _effective(rows) if approx.facts.method == "trace" and len(rows) > 3 else None
    size = distinct if sizes is None else min(distinct, float(np.min(sizes)))
    error = noise / np.sqrt(max(min(size, len(taken)), 1))
    surely = np.where(np.abs(shift) > 4 * error, shift, 0)
    seen = SeenRows(
        rows=len(rows),
        distinct=distinct,
        ndim=approx.ndim,
        spread=stein.mean_spread(spread),
        excess=float(np.median(spread)),
        shift=_worst(layout, surely, np.abs(surely)),
        effective=None if sizes is None else _worst(layout, sizes, -sizes),
    )
    judged = advice.judge_rows(seen, _past(approx.facts))
    numbers = dict.fromkeys(("khat", "khat_threshold", "elbo", "elbo_se"))
    numbers |= {"draws": len(taken), "effective": float(size)}
    ratio = 1 / np.sqrt(np.clip(spread, 1e-4, 1e4))
    return _verdict(approx, judged, numbers, _table(layout, shift, ratio))


def _nothing(approx: ApproximationBase, draws: int) -> Verdict:
    judged = Judgement(True, advice.GOOD, ("The model has no latent numbers: q is exact.",))
    numbers = dict.fromkeys(("khat", "khat_threshold", "elbo", "elbo_se"))
    numbers |= {"draws": draws, "effective": float(draws)}
    none = np.zeros(0)
    return _verdict(approx, judged, numbers, _table(approx.target.layout, none, none))


def _verdict(
    approx: ApproximationBase, judged: Judgement, numbers: dict[str, Any], sites: Any
) -> Verdict:
    name, steps = type(approx).__name__, approx.steps
    return Verdict(
        **judged._asdict(),
        **numbers,
        still_moving=_is_moving(approx.facts),
        sites=sites,
        about=f"{name}, {steps:,d} steps" if steps else name,
    )


def label(layout: Layout, coordinate: int) -> str:
    """The name of one number of the flat vector, as in ``w[3]``."""
    site, entry = _place(layout, coordinate)
    return f"{site}{entry}"


def _place(layout: Layout, coordinate: int) -> tuple[str, str]:
    site = next(s for s in layout.latents if s.slice.start <= coordinate < s.slice.stop)
    if not site.unconstrained_shape:
        return site.name, ""
    index = np.unravel_index(coordinate - site.slice.start, site.unconstrained_shape)
    return site.name, f"[{', '.join(str(int(i)) for i in index)}]"


def _labelled(layout: Layout, shape: Shape) -> dict[str, Any]:
    def labels(coordinates: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(label(layout, i) for i in coordinates)

    return {
        "pairs": tuple(map(labels, shape.pairs)),
        "funnels": tuple(map(labels, shape.funnels)),
        "humps": labels(shape.humps),
        "off": labels(shape.off),
    }


def _moves(z: np.ndarray, smoothed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What reweighting does to the means, in reweighted sds, and by what it multiplies the sds.

    Both against the plain draws, so that equal weights move nothing.
    """
    shift, ratio = np.zeros(z.shape[1]), np.ones(z.shape[1])
    for start in range(0, z.shape[1], _COLUMNS):
        at = slice(start, start + _COLUMNS)
        columns = z[:, at].astype(float)
        before, after = columns.mean(0), smoothed @ columns
        spread = columns.std(0)
        seen = spread > 0  # in single precision all draws may be the same number
        sd = np.sqrt(np.maximum(smoothed @ (columns - after) ** 2, np.finfo(float).tiny))
        shift[at] = np.where(seen, (after - before) / sd, 0.0)
        ratio[at] = np.divide(sd, spread, out=np.ones_like(sd), where=seen)
    return shift, ratio


def _effective(rows: Array) -> np.ndarray:
    """Effective sample sizes of rows in their order, as if they were one chain."""
    return np.asarray(diagnostics.effective_sample_size(np.asarray(rows, float)[None]))


def _worst(layout: Layout, values: np.ndarray, by: np.ndarray) -> tuple[str, float]:
    worst = int(np.argmax(by))
    return label(layout, worst), float(values[worst])


def _table(layout: Layout, shift: np.ndarray, ratio: np.ndarray) -> Any:
    """A row for each site, the worst first."""
    import pandas as pd

    off = np.maximum(np.abs(shift), np.abs(np.log(ratio)))
    sites = [s for s in layout.latents if s.slice.stop > s.slice.start]
    worst = [s.slice.start + int(np.argmax(off[s.slice])) for s in sites]
    worst.sort(key=lambda i: -off[i])
    places = [_place(layout, i) for i in worst]
    columns = {
        "entry": [entry for _, entry in places],
        "mean_shift": shift[worst],
        "sd_ratio": ratio[worst],
    }
    return pd.DataFrame(columns, index=pd.Index([name for name, _ in places], name="site"))


def _past(facts: Facts) -> Past:
    return Past(_is_moving(facts), facts.status, facts.step, facts.skipped, facts.optima)


def _is_moving(facts: Facts) -> bool | None:
    return {"moving": True, "settled": False}.get(facts.motion)

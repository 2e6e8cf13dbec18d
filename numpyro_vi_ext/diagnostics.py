"""Why a fit went wrong."""

import numpy as np

from numpyro_vi_ext.approximation.results import Approximation
from numpyro_vi_ext.errors import NonFiniteError
from numpyro_vi_ext.run import Run

_ADVICE = (
    "Try a smaller learning rate (obj_optimizer=vi.adam(1e-3)), "
    "total_grad_norm_constraint=10.0, a start nearer to the posterior (start={...}), a smaller "
    "start_sigma, or double precision (jax_enable_x64)."
)


def explain_non_finite(run: Run, approx: Approximation) -> NonFiniteError:
    """Say which step and which sites went bad, and what to try.

    Parameters
    ----------
    run : Run
        At its last finite state: the step after it is the bad one.
    approx : Approximation
        The approximation at that state.
    """
    layout, step = approx.target.layout, run.step + 1
    bad, where = _bad_density_sites(run, approx)
    if bad:
        what = f"the log density of {_names(bad)} is not finite at {where}"
    else:
        after = run.chunk.next_point(run.state, run.supply.inputs)
        with np.errstate(all="ignore"):  # moments of the very numbers that went bad
            bad = layout.sites_at(~(np.isfinite(after.q.mean()) & np.isfinite(after.q.std())))
        what = run.chunk.objective.broken
        if bad:
            what = f"the update made the variational parameters of {_names(bad)} non-finite"
        elif not np.isfinite(after.theta).all():
            what = "the update made the model's own params non-finite"
    skipped = int(run.state.skipped)
    before = f" {skipped:,d} steps before were skipped, and more are too many." if skipped else ""
    message = (
        f"NaN or infinity at step {step}: {what}.{before} The approximation after {run.step} steps "
        f"is kept as .approx, of this error and of the inference object. {_ADVICE}"
    )
    return NonFiniteError(message, step=step, sites=bad, approx=approx)


def _bad_density_sites(run: Run, approx: Approximation) -> tuple[tuple[str, ...], str]:
    """Sites whose log density is not finite at the points of the bad step, and at how many."""
    log_probs = run.chunk.log_probs(run.state, run.supply.inputs)
    is_bad = {name: ~np.isfinite(values) for name, values in log_probs.items()}
    bad = [name for name, points in is_bad.items() if points.any()]
    points = np.any([is_bad[name] for name in bad], axis=0) if bad else np.zeros(0)
    where = f"{points.sum():,d} of the {points.size:,d} points" if points.size > 1 else "the point"
    sites = tuple(dict.fromkeys(map(approx.target.layout.site_of, bad)))
    return sites, f"{where} where the model was evaluated"


def _names(sites: tuple[str, ...]) -> str:
    shown = ", ".join(repr(s) for s in sites[:10])
    return f"{shown} and {len(sites) - 10} more" if len(sites) > 10 else shown

"""One fit of one case by one method, as flat unconstrained moments in this package's order."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from models import Case
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal
from numpyro.optim import Adam
from peers import PyMC, models_in_pymc, why

import numpyro_vi_ext as vi

Array = np.ndarray


class Fitted(NamedTuple):
    """What a method found; the rest is NaN if it failed."""

    mean: Array
    sd: Array
    elbo: float
    seconds: float
    note: str = ""


Fit = Callable[[Case, int, int], Fitted]  # of a case, a seed and a number of steps


def ours(method: str, options: dict[str, Any]) -> Fit:
    """`numpyro_vi_ext.fit` with some options."""

    def fit(case: Case, seed: int, n: int) -> Fitted:
        began = time.perf_counter()
        given = {"method": method, "model_args": case.args, "random_seed": seed, **options}
        try:
            approx = vi.fit(case.model, n, progressbar=False, **given)
        except vi.NonFiniteError as error:
            return failed(case, str(error), time.perf_counter() - began)
        mean, sd = np.float64(approx.mean), np.float64(approx.std)
        seconds = time.perf_counter() - began
        elbo = approx.elbo(2000, random_seed=0).elbo if hasattr(approx, "elbo") else np.nan
        note = "" if approx.steps == n else f"{approx.steps} steps, {approx.status}"
        return Fitted(mean, sd, float(elbo), seconds, note)

    return fit


def svi(guide_of: Callable[[Any], Any], rate: float) -> Fit:
    """NumPyro's own loop and guide, with Adam at one rate and all else as it comes."""

    def fit(case: Case, seed: int, n: int) -> Fitted:
        began = time.perf_counter()
        guide = guide_of(case.model)
        loop = SVI(case.model, guide, Adam(rate), Trace_ELBO())
        args = jax.tree.map(jnp.asarray, case.args)
        found = loop.run(jax.random.key(seed), n, *args, progress_bar=False)
        params = {k: np.float64(v) for k, v in found.params.items()}
        seconds = time.perf_counter() - began
        order = order_of(case, guide)
        mean = params["auto_loc"][order]
        is_dense = "auto_scale_tril" in params
        L = params["auto_scale_tril"] if is_dense else np.diag(params["auto_scale"])
        L = L[order]
        sd = np.sqrt(np.sum(L**2, axis=1))
        if not np.isfinite(mean).all() or not np.isfinite(sd).all():
            return failed(case, "not finite", seconds)
        return Fitted(mean, sd, elbo(case, mean, L), seconds)

    return fit


@functools.cache  # one process for a method, which its next case ends
def pymc(method: str) -> Fit:
    """PyMC's, with its defaults."""
    run = PyMC(method)

    def fit(case: Case, seed: int, n: int) -> Fitted:
        try:
            found = run(case, seed, n)
        except RuntimeError as error:
            found = {"failed": why(error), "seconds": np.nan}
        if "failed" in found:
            return failed(case, found["failed"], found["seconds"])
        mean, sd = found["mean"], np.sqrt(np.diag(found["cov"]))
        L = np.linalg.cholesky(found["cov"] / np.outer(sd, sd)) * sd[:, None]
        return Fitted(mean, sd, elbo(case, mean, L), found["seconds"])

    return fit


def order_of(case: Case, guide: Any) -> Array:
    """Where each of our coordinates is in the guide's vector, found by site.

    NumPyro has no public name for the guide's order.
    """
    latent = np.arange(guide.latent_dim, dtype=float)
    by_site = guide._unpack_latent(jnp.asarray(latent))
    names = vi.Model(case.model, *case.args).latents
    return np.concatenate([np.ravel(by_site[name]) for name in names]).astype(int)


def elbo(case: Case, mean: Array, L: Array, n: int = 2000) -> float:
    """Of a Gaussian with factor `L` of its covariance (its rows in our order)."""
    eps = np.random.default_rng(0).standard_normal((n, L.shape[1]))
    log_p = vi.Model(case.model, *case.args).log_density(mean + eps @ L.T)
    # rows may be permuted: any factor of the covariance has the same singular values
    scale = np.sqrt(np.sum(L**2, axis=1))
    logdet = np.log(scale).sum() + np.log(np.linalg.svd(L / scale[:, None])[1]).sum()
    return float(np.mean(np.float64(log_p))) + logdet + 0.5 * len(mean) * (1 + np.log(2 * np.pi))


def failed(case: Case, note: str, seconds: float) -> Fitted:
    nothing = np.full(vi.Model(case.model, *case.args).ndim, np.nan)
    return Fitted(nothing, nothing, np.nan, seconds, note.splitlines()[0][:60])


def has(method: str, case: Case) -> bool:
    """Whether a method can fit a case."""
    return method not in PYMC or case.model.__name__ in models_in_pymc()


PYMC = ("pymc_advi", "pymc_fullrank_advi", "extras_advi")
METHODS: dict[str, tuple[str, Callable[[dict[str, Any]], Fit]]] = {
    # name -> family it is compared to, and what makes the fit from options
    "advi": ("advi", lambda options: ours("advi", options)),
    "fullrank_advi": ("fullrank_advi", lambda options: ours("fullrank_advi", options)),
    "svi_1e-3": ("advi", lambda _: svi(AutoDiagonalNormal, 1e-3)),
    "svi_1e-2": ("advi", lambda _: svi(AutoDiagonalNormal, 1e-2)),
    "svi_mvn_1e-3": ("fullrank_advi", lambda _: svi(AutoMultivariateNormal, 1e-3)),
    "svi_mvn_1e-2": ("fullrank_advi", lambda _: svi(AutoMultivariateNormal, 1e-2)),
    "pymc_advi": ("advi", lambda _: pymc("pymc_advi")),
    "pymc_fullrank_advi": ("fullrank_advi", lambda _: pymc("pymc_fullrank_advi")),
    "extras_advi": ("advi", lambda _: pymc("extras_advi")),
}

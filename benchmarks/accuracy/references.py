"""Find what is known of each posterior, and keep it in ``references.json``.

``python benchmarks/accuracy/references.py`` does all of it (about half an hour on two cores),
``references.py radon gp`` some cases. In double precision: closed forms where there are any, else
four long chains of NUTS; and the best Gaussians, in closed form or by `optimum.best`.
"""

import json
import sys
import time
from typing import Any

import exact
import jax
import jax.numpy as jnp
import numpy as np
from exact import Moments
from models import CASES, Case
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS
from optimum import best
from stored import FILE

import numpyro_vi_ext as vi

Array = np.ndarray

CHAINS, WARMUP, DRAWS = 4, 1500, 5000
COVARIANCE_UP_TO = 20  # dimensions; in more, it would make a large file
DENSE_UP_TO = 100
POINTS = {"gp": 512, "gp_latent": 1024, "garch11": 2048}  # of the numerical optima, half of them
HARD = {"horseshoe": 0.998, "eight_schools": 0.95, "gp_latent": 0.97}  # target acceptance


def sample(case: Case) -> tuple[Array, dict[str, Any]]:
    """Rows of NUTS in unconstrained space, and how they came about."""
    source = CASES[case.draw_from] if case.draw_from else case
    kernel = NUTS(source.model, target_accept_prob=HARD.get(source.name, 0.9))
    mcmc = MCMC(
        kernel,
        num_warmup=WARMUP,
        num_samples=DRAWS,
        num_chains=CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )
    began = time.perf_counter()
    mcmc.run(jax.random.key(0), *source.args, extra_fields=("diverging",))
    values = dict(mcmc.get_samples())
    if case.name == "funnel":
        values["theta"] = values["mu"][:, None] + values["tau"][:, None] * values["z"]
    empirical = vi.Empirical(values, model=case.model, model_args=case.args)
    rows = empirical.histogram
    chains = rows.reshape(CHAINS, DRAWS, -1)
    return rows, {
        "how": f"NUTS, {CHAINS} chains of {DRAWS} draws",
        "seconds": round(time.perf_counter() - began, 1),
        "ess": int(effective_sample_size(chains).min()),
        "rhat": round(float(split_gelman_rubin(chains).max()), 5),
        "divergences": int(mcmc.get_extra_fields()["diverging"].sum()),
        "skewness": round(float(np.abs(_skewness(rows)).max()), 3),
    }


def _skewness(rows: Array) -> Array:
    centred = rows - rows.mean(0)
    return np.mean(centred**3, axis=0) / np.mean(centred**2, axis=0) ** 1.5


def log_density_of(case: Case) -> tuple[vi.Model, Any]:
    model = vi.Model(case.model, *case.args)
    return model, model.log_density


def check_moments(case: Case, truth: Moments) -> None:
    """Hold a closed form against the model's own density: its gradient and its curvature.

    Of a linear regression, the coefficients are looked at, with sigma at its mean.
    """
    _, log_density = log_density_of(case)
    n = len(truth.mean) - (case.exact == "linear")
    mean, cov = truth.mean, truth.cov[:n, :n]
    if case.exact == "linear":
        given, _ = exact.given_scale(exact.regression(case), mean[-1])
        mean, cov = np.append(given.mean, mean[-1]), given.cov
    sd = np.sqrt(np.diag(cov))

    def scaled(x: Any) -> Any:
        return log_density(jnp.asarray(mean).at[:n].add(sd * x))

    grad = jax.grad(scaled)(jnp.zeros(n))
    curvature = -np.asarray(jax.hessian(scaled)(jnp.zeros(n)))
    off = np.abs(curvature @ (cov / np.outer(sd, sd)) - np.eye(n)).max()
    if not (np.abs(np.linalg.solve(curvature, grad)).max() < 1e-5 and off < 1e-4):
        raise AssertionError(f"{case.name}: gradient {grad}, curvature off by {off}")
    if case.exact == "linear":
        check_scale(case, truth)


def check_scale(case: Case, truth: Moments) -> None:
    """Hold the density of log sigma, without the coefficients, against the model's own."""
    _, log_density = log_density_of(case)
    model, u0, step = exact.regression(case), truth.mean[-1], truth.sd[-1]

    def both(u: float) -> tuple[float, float]:
        given, marginal = exact.given_scale(model, u)
        logdet = np.linalg.slogdet(given.cov / np.outer(given.sd, given.sd))[1]
        conditional = -0.5 * logdet - np.log(given.sd).sum()
        return marginal, float(log_density(np.append(given.mean, u))) - conditional

    ours, theirs = np.array([both(u0 + k * step) for k in (-2, 0, 2)]).T
    if np.abs((ours - ours[1]) - (theirs - theirs[1])).max() > 1e-4:
        raise AssertionError(f"{case.name}: log sigma has {ours}, the model {theirs}")


def known_moments(case: Case) -> tuple[Moments, dict[str, Moments], dict[str, Any]]:
    """Moments of the posterior, those best Gaussians that have a closed form, and the facts."""
    if case.exact == "gaussian":
        truth = exact.gaussian(case)
        check_moments(case, truth)
        return truth, exact.gaussian_optima(truth), {"how": "closed form"}
    if case.exact == "linear":
        model = exact.regression(case)
        truth = exact.linear(model)
        check_moments(case, truth)
        optima = {} if model.precision.any() else exact.linear_optima(model)
        return truth, optima, {"how": "closed form and one integral"}
    rows, facts = sample(case)
    return Moments(rows.mean(0), np.atleast_2d(np.cov(rows.T))), {}, facts


def numerical_optima(case: Case, truth: Moments) -> dict[str, Moments]:
    """The best Gaussians by `best`."""
    _, log_density = log_density_of(case)
    n = POINTS.get(case.name, 4096)
    found = {"advi": best(log_density, truth, False, n)}
    if len(truth.mean) <= DENSE_UP_TO:
        found["fullrank_advi"] = best(log_density, truth, True, n)
    return found


def rounded(values: Array) -> list[Any]:
    return [float(f"{v:.8g}") if np.ndim(v) == 0 else rounded(v) for v in values]


def entry(case: Case) -> dict[str, Any]:
    truth, optima, facts = known_moments(case)
    how = "closed form" if optima else "numerical"
    optima = optima or numerical_optima(case, truth)
    worst = {m: np.abs((o.mean - truth.mean) / truth.sd).max() for m, o in optima.items()}
    found = {**facts, "mean": rounded(truth.mean), "sd": rounded(truth.sd)}
    if len(truth.mean) <= COVARIANCE_UP_TO:
        found["cov"] = rounded(truth.cov)
    found["optima"] = {
        method: {
            "how": how,
            "worst": round(float(worst[method]), 4),  # |mean - posterior mean| / sd
            "mean": rounded(o.mean),
            "sd": rounded(o.sd),
        }
        for method, o in optima.items()
    }
    return found


def main(names: list[str]) -> None:
    jax.config.update("jax_enable_x64", True)
    for name in names or [n for n, case in CASES.items() if case.rescaled is None]:
        began = time.perf_counter()
        found = entry(CASES[name])
        stored = json.loads(FILE.read_text()) if FILE.exists() else {}
        stored = {n: {**stored, name: found}[n] for n in CASES if n == name or n in stored}
        lines = [f"{json.dumps(n)}: {json.dumps(e)}" for n, e in stored.items()]
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        facts = {k: v for k, v in found.items() if k not in ("mean", "sd", "cov", "optima")}
        worst = {method: o["worst"] for method, o in found["optima"].items()}
        print(f"{name}: {facts} {worst} {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

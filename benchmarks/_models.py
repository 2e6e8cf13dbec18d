"""Models and hand-written loops that several scripts measure."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDiagonalNormal
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

Array = jax.Array


def mixture() -> None:
    """The seed's bimodal target."""
    components = dist.Normal(jnp.array([-0.3, 0.5]), 0.1)
    weights = dist.Categorical(probs=jnp.array([0.2, 0.8]))
    numpyro.sample("x", dist.MixtureSameFamily(weights, components))


def wide_normal(data: Array) -> None:
    """100 means with flat priors and 100 standard deviations, 40,000 rows."""
    columns = data.shape[1]
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), (columns,)))
    sd = numpyro.sample("sd", dist.HalfNormal(1.0).expand([columns]).to_event(1))
    numpyro.sample("lik", dist.Normal(mu, sd), obs=data)


def wide_normal_data(rows: int = 40_000, columns: int = 100) -> np.ndarray:
    """The seed's simulated data: scaled and shifted uniforms."""
    rng = np.random.default_rng(0)
    data = rng.random((rows, columns)) * rng.integers(1, 10, columns) + rng.random(columns) * 10
    return data.astype(np.float32)


def softmax_regression(X: Array, y: Array | None = None) -> None:
    """The seed's model of the Iris data."""
    beta = numpyro.sample("beta", dist.Normal(0, 100).expand([4, 3]).to_event(2))
    flat = dist.ImproperUniform(dist.constraints.real, (), (3,))
    logits = X @ beta + numpyro.sample("intercept", flat)
    numpyro.deterministic("p", jax.nn.softmax(logits))
    numpyro.sample("y", dist.Categorical(logits=logits).to_event(1), obs=y)


def iris_data() -> list[np.ndarray]:
    """Measurements for training and testing, then the species of both."""
    return train_test_split(*load_iris(return_X_y=True), random_state=0)


def correlated(precision: Array) -> None:
    """A dense Gaussian."""
    d = precision.shape[0]
    numpyro.sample("z", dist.MultivariateNormal(jnp.zeros(d), precision_matrix=precision))


def hand_written(
    log_density: Callable[..., Array], ndim: int, full_rank: bool = False, rate: float = 0.01
) -> Callable[..., Any]:
    """A jitted ``lax.scan`` over ADVI steps with optax's Adam, written for one model.

    The estimator is the package's: one draw, closed-form entropy in the loss, the
    sticking-the-landing gradient.
    """
    optimizer = optax.adam(rate)

    def scale(q: dict[str, Array]) -> Array:
        if not full_rank:
            return jax.nn.softplus(q["rho"])
        return jnp.tril(q["rho"], -1) + jnp.diag(jax.nn.softplus(jnp.diag(q["rho"])))

    def loss_and_grad(q: dict[str, Array], eps: Array, data: tuple[Array, ...]) -> Any:
        def draw(q: dict[str, Array]) -> Array:
            return q["mu"] + (scale(q) @ eps if full_rank else scale(q) * eps)

        z, pull_back = jax.vjp(draw, q)
        log_p, grad = jax.value_and_grad(partial(log_density, *data))(z)
        if full_rank:
            solve = jax.scipy.linalg.solve_triangular
            score = -solve(scale(q), eps, trans="T", lower=True)
            entropy = jnp.sum(jnp.log(jnp.diag(scale(q))))
        else:
            score, entropy = -eps / scale(q), jnp.sum(jnp.log(scale(q)))
        return -log_p - entropy, pull_back(score - grad)[0]

    @partial(jax.jit, static_argnums=1)
    def run(key: Array, n: int, *data: Array) -> Any:
        def step(carry: Any, key: Array) -> Any:
            q, state = carry
            loss, grad = loss_and_grad(q, jax.random.normal(key, (ndim,)), data)
            updates, state = optimizer.update(grad, state, q)
            return (optax.apply_updates(q, updates), state), loss

        q = {"mu": jnp.zeros(ndim), "rho": jnp.zeros((ndim, ndim) if full_rank else ndim)}
        return jax.lax.scan(step, (q, optimizer.init(q)), jax.random.split(key, n))

    return run


def svi_loop(model: Callable[..., None], steps: int, *data: Array) -> Callable[[], object]:
    """Updates of NumPyro's SVI in one jitted scan; ``SVI.run`` would compile at every call."""
    svi = SVI(model, AutoDiagonalNormal(model), numpyro.optim.Adam(0.01), Trace_ELBO())

    @jax.jit
    def run(state: Any, *data: Array) -> Any:
        return jax.lax.scan(lambda s, _: svi.update(s, *data), state, length=steps)

    state = svi.init(jax.random.key(0), *data)
    return lambda: run(state, *data)

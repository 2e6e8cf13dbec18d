"""Models of every kind that NumPyro runs, each with the arguments it is called with."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints, transforms
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

RNG = np.random.default_rng(20)
X = RNG.normal(size=(7, 2))
Y = X @ [1.0, -0.5] + 0.3
EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
GROUPS = np.array([0, 0, 1, 2, 2, 1, 0])


class Case(NamedTuple):
    """A model, its arguments, and the shapes of its latent sites in its own space."""

    name: str
    fn: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    latents: dict[str, tuple[int, ...]]


CASES: list[Case] = []


def case(*args: Any, latents: dict[str, tuple[int, ...]], wrap: Any = None, **kwargs: Any) -> Any:
    def add(fn: Any) -> Any:
        wrapped = fn if wrap is None else wrap(fn)
        CASES.append(Case(fn.__name__, wrapped, args, kwargs, latents))
        return fn

    return add


# -- the models of the quick start


@case(latents={"w": ()})
def mixture():
    weights, means = jnp.array([0.2, 0.8]), jnp.array([-0.3, 0.5])
    parts = dist.Normal(means, 0.1)
    numpyro.sample("w", dist.MixtureSameFamily(dist.Categorical(weights), parts))


def eight_schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(sigma)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


CASES.append(
    Case(
        "eight_schools_centred",
        eight_schools,
        (ERRORS,),
        {"y": EFFECTS},
        {"mu": (), "tau": (), "theta": (8,)},
    )
)
CASES.append(
    Case(
        "eight_schools_non_centred",
        handlers.reparam(eight_schools, config={"theta": LocScaleReparam(0)}),
        (ERRORS,),
        {"y": EFFECTS},
        {"mu": (), "tau": (), "theta_decentered": (8,)},
    )
)


@case(X, Y, latents={"w": (2,), "sd": ()})
def regression_with_factor(X, y):
    w = numpyro.sample("w", dist.Normal(0, 2).expand([2]).to_event(1))
    sd = numpyro.sample("sd", dist.Exponential(1.0))
    numpyro.deterministic("fitted", X @ w)
    numpyro.factor("likelihood", dist.Normal(X @ w, sd).log_prob(y).sum())
    numpyro.factor("penalty", -0.1 * jnp.abs(w))


# -- supports


@case(
    latents={
        "simplex": (3,),
        "ordered": (4,),
        "corr_cholesky": (3, 3),
        "positive": (2, 2),
        "interval": (3,),
        "unit": (),
        "above": (),
        "circular": (),
        "lower": (3,),
    }
)
def supports():
    numpyro.sample("simplex", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
    increasing = transforms.OrderedTransform()
    base = dist.Normal(jnp.zeros(4), 1.0).to_event(1)
    numpyro.sample("ordered", dist.TransformedDistribution(base, increasing))
    numpyro.sample("corr_cholesky", dist.LKJCholesky(3, 2.0))
    numpyro.sample("positive", dist.Gamma(2.0, jnp.ones((2, 2))).to_event(2))
    numpyro.sample("interval", dist.Uniform(-1.0, jnp.array([1.0, 2.0, 3.0])))
    numpyro.sample("unit", dist.Beta(2.0, 3.0))
    numpyro.sample("above", dist.Pareto(2.0, 3.0))
    numpyro.sample("circular", dist.VonMises(0.5, 2.0))
    numpyro.sample("lower", dist.TruncatedNormal(0.0, 1.0, high=jnp.zeros(3)))


@case(np.array([0.3, 0.9]), latents={"top": (), "x": (2,)})
def support_from_a_latent(y):
    top = numpyro.sample("top", dist.LogNormal(1.0, 0.5))
    x = numpyro.sample("x", dist.Uniform(0.0, top).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(x, 0.3).to_event(1), obs=y)


@case(latents={"zero_sum": (4,)})
def zero_sum():
    numpyro.sample("zero_sum", dist.ZeroSumNormal(1.5, (4,)))


@case(np.float64(1.3), latents={"level": (), "rates": (2,), "order": (3,)})
def improper(y):
    level = numpyro.sample("level", dist.ImproperUniform(constraints.real, (), ()))
    rates = numpyro.sample("rates", dist.ImproperUniform(constraints.positive, (2,), ()))
    order = numpyro.sample("order", dist.ImproperUniform(constraints.ordered_vector, (), (3,)))
    numpyro.sample("y", dist.Normal(level, 1 + rates.sum()), obs=y)
    numpyro.factor("proper", -rates.sum() - (order**2).sum())


# -- shapes


@case(latents={"a": (), "m": (2, 3), "b": (), "v": (3,)})
def scalars_and_matrices():
    a = numpyro.sample("a", dist.Normal(1, 2))
    m = numpyro.sample("m", dist.Normal(a, 1).expand([2, 3]))
    b = numpyro.sample("b", dist.HalfNormal(1))
    numpyro.sample("v", dist.MultivariateNormal(m[0], scale_tril=jnp.eye(3) * (0.1 + b)))
    numpyro.deterministic("product", m @ m.T)


@case(latents={"x": (), "none": (0,), "empty": (2, 0)})
def sites_without_elements():
    numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("none", dist.HalfNormal(jnp.ones(0)).to_event(1))
    numpyro.sample("empty", dist.Normal(0, 1).expand([2, 0]).to_event(2))


@case(latents={"a": (3, 1), "b": (3, 2), "w": (3, 2, 2)})
def nested_plates():
    with numpyro.plate("rows", 3, dim=-2):
        numpyro.sample("a", dist.Normal(0, 1))
        with numpyro.plate("columns", 2, dim=-1):
            b = numpyro.sample("b", dist.Gamma(2, 2))
            numpyro.sample("w", dist.Dirichlet(jnp.stack([b + 0.1, b + 0.2], -1)))


# -- point estimates, subsampling


@case(Y, latents={"z": ()})
def params(y):
    centre = numpyro.param("centre", 0.3)
    sd = numpyro.param("sd", jnp.array([0.5, 2.0]), constraint=constraints.positive)
    weights = numpyro.param("weights", jnp.array([0.2, 0.8]), constraint=constraints.simplex)
    z = numpyro.sample("z", dist.Normal(centre, sd.sum()))
    drawn = numpyro.param("drawn", lambda key: jax.random.normal(key, (2,)))
    numpyro.sample("y", dist.Normal(z + weights @ drawn, 1), obs=y)


@case(X, Y, latents={"w": (2,)})
def subsampling(X, y):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(X), subsample_size=3):
        rows = numpyro.subsample(X, event_dim=1)
        numpyro.sample("y", dist.Normal(rows @ w, 0.5), obs=numpyro.subsample(y, event_dim=0))


# -- handlers around the model


def simple(y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(mu, sd).expand([7]).to_event(1), obs=y)


_BOTH: dict[str, tuple[int, ...]] = {"mu": (), "sd": ()}
CASES += [
    Case("scaled", handlers.scale(simple, scale=2.5), (Y,), {}, _BOTH),
    Case("masked", handlers.mask(simple, mask=False), (Y,), {}, _BOTH),
    Case("conditioned", handlers.condition(simple, data={"y": Y, "sd": 0.7}), (), {}, {"mu": ()}),
    Case("blocked", handlers.block(simple, hide=["sd"]), (Y,), {}, {"mu": ()}),
    Case("scoped", handlers.scope(simple, "deep"), (Y,), {}, {"deep/mu": (), "deep/sd": ()}),
    Case("intervened", handlers.do(simple, data={"mu": 1.0}), (Y,), {}, _BOTH),
    Case(
        "reparameterised_transform",
        handlers.reparam(
            lambda: numpyro.sample(
                "scale", dist.TransformedDistribution(dist.Normal(0, 1), transforms.ExpTransform())
            ),
            config={"scale": TransformReparam()},
        ),
        (),
        {},
        {"scale_base": ()},
    ),
    Case(
        "lifted",
        handlers.lift(
            params,
            prior={"centre": dist.Normal(0, 1), "drawn": dist.Normal(0, 1).expand([2]).to_event(1)},
        ),
        (Y,),
        {},
        {"centre": (), "z": (), "drawn": (2,)},
    ),
    Case(
        "wrapped_twice",
        handlers.scale(handlers.condition(simple, data={"y": Y}), scale=0.5),
        (),
        {},
        _BOTH,
    ),
]


@case(Y, latents={"x": ()})
def handlers_inside(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    with handlers.mask(mask=y > 0), handlers.scale(scale=3.0):
        numpyro.sample("y", dist.Normal(x, 1), obs=y)


@case(np.where(Y > 0, Y, np.nan), Y > 0, latents={"mu": (), "y_unobserved": (7,)})
def partly_observed(y, seen):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("n", 7):
        numpyro.sample("y", dist.Normal(mu, 1), obs=jnp.where(seen, y, 0.0), obs_mask=seen)


# -- ways of calling


def returns_early(X, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    if y is None:
        return X @ w
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    return numpyro.sample("y", dist.Normal(X @ w, sd).to_event(1), obs=y)


CASES += [
    Case("early_without_y", returns_early, (X,), {"y": None}, {"w": (2,)}),
    Case("early_with_y", returns_early, (X,), {"y": Y}, {"w": (2,), "sd": ()}),
]


def _closing_over(X, y):
    on_device = jnp.asarray(X)

    def model():
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(on_device @ w, np.exp(SCALE)), obs=y)

    return model


SCALE = -0.5
CASES.append(Case("closure", _closing_over(X, Y), (), {}, {"w": (2,)}))


@case(X=X, y=Y, use_intercept=True, latents={"b": (), "w": (2,)})
def keywords_only(*, X, y, use_intercept=False):
    b = numpyro.sample("b", dist.Normal(0, 1)) if use_intercept else 0.0
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ w + b, 1), obs=y)


class Priors(NamedTuple):
    loc: Any
    kind: str


@case(
    {"z": Y, "X": [X, None], "n": 2},
    Priors(0.5, "laplace"),
    (1.0, (2.0, {"deep": np.float64(3.0)})),
    latents={"w": (2,)},
)
def pytrees(data, priors, scales):
    family = {"laplace": dist.Laplace, "normal": dist.Normal}[priors.kind]
    w = numpyro.sample("w", family(priors.loc, scales[0]).expand([data["n"]]).to_event(1))
    scale = scales[1][0] + scales[1][1]["deep"]
    assert data["X"][1] is None
    numpyro.sample("y", dist.Normal(data["X"][0] @ w, scale), obs=data["z"])


@case(latents={"w": (2,)}, wrap=lambda fn: functools.partial(functools.partial(fn, X), y=Y, sd=0.7))
def partially_bound(X, y, sd):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ w, sd), obs=y)


@case(X, Y, {"sd": 0.5}, latents={"w": (2,)})
def variadic(*arrays, **options):
    X, y, given = arrays
    assert not options
    w = numpyro.sample("w", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ w, given["sd"]), obs=y)


@case(GROUPS, Y, latents={"effect": (3,)})
def counts_its_groups(idx, y):
    with numpyro.plate("group", len(np.unique(idx))):
        effect = numpyro.sample("effect", dist.Normal(0, 1))
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.Normal(effect[idx], 0.5), obs=y)


class Regression:
    """A model with a method, an attribute named like a handler's, and a call of its own."""

    def __init__(self, fn, prior_sd):
        self.fn, self.prior_sd = fn, prior_sd

    def model(self, X, y=None):
        w = numpyro.sample("w", dist.Normal(0, self.prior_sd).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(self.fn(X, w), 1), obs=y)

    def __call__(self, X, y=None):
        self.model(X, y)


def _linear(X, w):
    return X @ w


CASES += [
    Case("bound_method", Regression(_linear, 3.0).model, (X,), {"y": Y}, {"w": (2,)}),
    Case("callable_instance", Regression(_linear, 2.0), (X, Y), {}, {"w": (2,)}),
]


def _supplies_data(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return fn(X, *args, **kwargs)

    return wrapper


@case(Y, latents={"w": (2,)}, wrap=_supplies_data)
def decorated(X, y):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ w, 1), obs=y)


@case(fn=Y, latents={"x": ()})
def argument_named_fn(fn):
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(x, 1), obs=fn)


# -- JAX inside


@case(Y, latents={"drift": (), "x": (7,)})
def state_space(y):
    drift = numpyro.sample("drift", dist.Normal(0, 1))

    def step(state, y_t):
        state = numpyro.sample("x", dist.Normal(0.9 * state + drift, 0.5))
        numpyro.sample("y", dist.Normal(state, 1.0), obs=y_t)
        return state, state

    scan(step, jnp.zeros(()), y)


@case(X, latents={"length": ()})
def gaussian_process(X):
    length = numpyro.sample("length", dist.InverseGamma(3, 2))
    distance = ((X[:, None] - X[None]) ** 2).sum(-1)
    K = jnp.exp(-distance / length**2) + 0.1 * jnp.eye(len(X))
    numpyro.sample("y", dist.MultivariateNormal(0, K), obs=Y)


@jax.custom_jvp
def _softplus(x):
    return jnp.logaddexp(x, 0)


_softplus.defjvp(lambda x, dx: (_softplus(*x), jax.nn.sigmoid(*x) * dx[0]))


@case(Y, latents={"x": ()})
def jax_inside(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    f = jax.jit(lambda v: jax.lax.cond(v > 0, jnp.sin, _softplus, v) + y.sum())
    numpyro.deterministic("f", jax.vmap(f)(x + jnp.arange(3.0)))
    numpyro.deterministic("pair", {"first": x, "second": (x, 2 * x * jnp.ones(2))})
    numpyro.sample("y", dist.Normal(f(x), 1), obs=y)


@case(latents={"x": ()})
def own_randomness():
    shift = jax.random.normal(numpyro.prng_key())
    numpyro.sample("x", dist.Normal(shift, 1))

"""Optimizers: PyMC's update rules, one object per set of hyperparameters, what fit accepts."""

import dataclasses
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest

from numpyro_vi_ext import optimizers as vi

try:
    from jax import enable_x64
except ImportError:  # before jax 0.8
    from jax.experimental import enable_x64

N_STEPS = 30


# PyMC's rules written out in NumPy: rule(g, t, state, **hyperparameters) -> step; the state is a
# dict that lasts over the steps, one for each leaf.


def np_sgd(g, t, s, lr=1e-3):
    return -lr * g


def np_momentum(g, t, s, lr=1e-3, momentum=0.9):
    s["v"] = momentum * s.get("v", 0) - lr * g
    return s["v"]


def np_nesterov_momentum(g, t, s, lr=1e-3, momentum=0.9):
    s["v"] = momentum * s.get("v", 0) - lr * g
    return momentum * s["v"] - lr * g


def np_adagrad(g, t, s, lr=1.0, epsilon=1e-6):
    s["a"] = s.get("a", 0) + g**2
    return -lr * g / np.sqrt(s["a"] + epsilon)


def np_adagrad_window(g, t, s, lr=1e-3, epsilon=0.1, n_win=10):
    s["w"] = [*s.get("w", []), g**2][-n_win:]
    return -lr * g / np.sqrt(sum(s["w"]) + epsilon)


def np_rmsprop(g, t, s, lr=1.0, rho=0.9, epsilon=1e-6):
    s["a"] = rho * s.get("a", 0) + (1 - rho) * g**2
    return -lr * g / np.sqrt(s["a"] + epsilon)


def np_adadelta(g, t, s, lr=1.0, rho=0.95, epsilon=1e-6):
    s["a"] = rho * s.get("a", 0) + (1 - rho) * g**2
    u = g * np.sqrt(s.get("d", 0) + epsilon) / np.sqrt(s["a"] + epsilon)
    s["d"] = rho * s.get("d", 0) + (1 - rho) * u**2
    return -lr * u


def np_adam(g, t, s, lr=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8):
    s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * g
    s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * g**2
    lr_t = lr * np.sqrt(1 - beta2**t) / (1 - beta1**t)
    return -lr_t * s["m"] / (np.sqrt(s["v"]) + epsilon)


def np_adamax(g, t, s, lr=2e-3, beta1=0.9, beta2=0.999, epsilon=1e-8):
    s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * g
    s["u"] = np.maximum(beta2 * s.get("u", 0), np.abs(g))
    return -lr / (1 - beta1**t) * s["m"] / (s["u"] + epsilon)


FACTORIES = [
    vi.sgd,
    vi.momentum,
    vi.nesterov_momentum,
    vi.adagrad,
    vi.adagrad_window,
    vi.rmsprop,
    vi.adadelta,
    vi.adam,
    vi.adamax,
]
# Every hyperparameter away from its default.
OTHER = {
    "sgd": {},
    "momentum": {"momentum": 0.5},
    "nesterov_momentum": {"momentum": 0.5},
    "adagrad": {"epsilon": 0.3},
    "adagrad_window": {"epsilon": 0.3, "n_win": 4},
    "rmsprop": {"rho": 0.5, "epsilon": 0.3},
    "adadelta": {"rho": 0.5, "epsilon": 0.3},
    "adam": {"beta1": 0.5, "beta2": 0.8, "epsilon": 0.3},
    "adamax": {"beta1": 0.0, "beta2": 0.0, "epsilon": 0.3},
}
each_factory = pytest.mark.parametrize("factory", FACTORIES, ids=lambda f: f.__name__)


@partial(jax.tree_util.register_dataclass, data_fields=["mu", "rho"], meta_fields=["size"])
@dataclasses.dataclass(frozen=True)
class Parameters:
    """Stands for a family, shape check included."""

    mu: jax.Array
    rho: jax.Array
    size: int

    def __post_init__(self):
        if hasattr(self.mu, "shape") and self.mu.shape != (self.size,):
            raise ValueError("mu must have shape (size,)")


def gradients(dtype, seed=0):
    """Gradients of very different sizes, the tiny ones to show where epsilon sits."""
    rng = np.random.default_rng(seed)
    scales = {"mu": np.array([1e-9, 1e-4, 1.0, 30.0]), "rho": np.full((2, 1), 0.1)}
    return [
        {k: (s * rng.normal(size=s.shape)).astype(dtype) for k, s in scales.items()}
        for _ in range(N_STEPS)
    ]


def run(transformation, grads, start):
    """Parameters after each step."""
    params, state, path = start, transformation.init(start), []
    update = jax.jit(transformation.update)
    for g in grads:
        step, state = update(g, state)
        params = optax.apply_updates(params, step)
        path.append(params)
    return path


def check_against_numpy(transformation, rule, dtype, rtol):
    """Compare each step's parameters, up to ``rtol`` times the way gone so far."""
    grads = gradients(dtype)
    start = {k: np.zeros(g.shape, dtype) for k, g in grads[0].items()}
    path = run(transformation, grads, start)
    for name in start:
        value, way, state = np.zeros(start[name].shape), np.zeros(start[name].shape), {}
        for t, g in enumerate(grads, 1):
            step = rule(g[name].astype(np.float64), t, state)
            value, way = value + step, way + np.abs(step)
            actual = np.asarray(path[t - 1][name])
            assert actual.dtype == dtype
            assert np.all(np.abs(actual - value) <= rtol * way), (name, t)


@each_factory
@pytest.mark.parametrize("bare", [True, False])
def test_update_rule_in_float64(factory, bare):
    rule, other = globals()[f"np_{factory.__name__}"], OTHER[factory.__name__]
    if bare:
        transformation = vi.as_transformation(factory)
        assert transformation is factory()
    else:
        transformation, rule = factory(0.05, **other), partial(rule, lr=0.05, **other)
    with enable_x64(True):
        check_against_numpy(transformation, rule, np.float64, rtol=1e-12)


@each_factory
def test_update_rule_in_float32(factory):
    # 1 - 0.999**t in float32 has a relative error of 6e-5 at t = 1; everything else is finer.
    rule = globals()[f"np_{factory.__name__}"]
    check_against_numpy(factory(), rule, np.float32, rtol=1e-4)


def test_adam_and_adamax_are_not_those_of_optax():
    """Which also shows that the comparison can fail: only the place of epsilon differs."""
    for theirs, rule in ((optax.adam(1e-3), np_adam), (optax.adamax(2e-3), np_adamax)):
        with enable_x64(True), pytest.raises(AssertionError, match="mu"):
            check_against_numpy(theirs, rule, np.float64, rtol=1e-3)


@each_factory
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scheduled", [False, True])
def test_pytrees_and_dtypes_in_a_compiled_loop(factory, dtype, scheduled):
    """Dataclasses, empty leaves and scalars work; the carry of a loop keeps its types."""
    rate = optax.exponential_decay(0.1, 5, 0.5) if scheduled else 0.1
    optimizer = factory(rate)
    with enable_x64(True):  # the harder case for float32: constants want to be float64
        params = (
            Parameters(jnp.ones(3, dtype), jnp.zeros((0, 2), dtype), 3),
            [jnp.ones((), dtype), None],
        )

        def body(_, carry):
            params, state = carry
            step, state = optimizer.update(params, state)  # the gradient of |params|^2 / 2
            return optax.apply_updates(params, step), state

        carry = (params, optimizer.init(params))
        new, state = jax.jit(lambda c: jax.lax.fori_loop(0, 5, body, c))(carry)
        assert jax.tree.map(jnp.shape, (new, state)) == jax.tree.map(jnp.shape, carry)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(new))
        assert all(leaf.dtype in (dtype, "int32") for leaf in jax.tree.leaves(state))
        assert not any(leaf.weak_type for leaf in jax.tree.leaves(new))
        assert new[0].mu[0] < 1


@each_factory
def test_schedule_is_called_with_the_steps_taken(factory):
    calls = []

    def schedule(count):
        calls.append(int(count))
        return jnp.where(count < 2, 0.0, 0.5)

    optimizer, state = factory(schedule), None
    state = optimizer.init(jnp.zeros(1))
    steps = []
    for _ in range(3):
        step, state = optimizer.update(jnp.ones(1), state)
        steps.append(float(step[0]))
    assert calls == [0, 1, 2]
    assert steps[:2] == [0, 0]
    constant, state = factory(0.5), factory(0.5).init(jnp.zeros(1))
    for _ in range(3):
        step, state = constant.update(jnp.ones(1), state)
    assert steps[2] == pytest.approx(float(step[0]), rel=1e-6)


@each_factory
def test_same_hyperparameters_same_object(factory):
    first = factory(0.01)
    others = [0.01, np.float64(0.01), np.array(0.01)]
    assert all(factory(rate) is first for rate in others)
    assert factory(learning_rate=0.01) is first
    assert factory(1) is factory(1.0)
    defaults = {p.name: p.default for p in inspect.signature(factory).parameters.values()}
    assert factory() is factory(**defaults)
    assert factory(float("nan")) is factory(np.float32("nan"))
    assert factory(0.02) is not first
    schedule = optax.constant_schedule(0.01)
    assert factory(schedule) is factory(learning_rate=schedule)
    assert factory(schedule) is not factory(optax.constant_schedule(0.01))
    for name, value in OTHER[factory.__name__].items():
        assert factory(0.01, **{name: value}) is factory(0.01, **{name: np.array(value)})
        assert factory(0.01, **{name: value}) is not first


def test_schedules_are_told_apart_by_identity_alone():
    @dataclasses.dataclass  # has __eq__, so no hash
    class Schedule:
        rate: float

        def __call__(self, count):
            return self.rate

    one, two = Schedule(0.1), Schedule(0.1)
    assert one == two
    assert vi.sgd(one) is vi.sgd(one)
    assert vi.sgd(one) is not vi.sgd(two)
    jitted = jax.jit(lambda count: 0.1)
    assert vi.sgd(jitted) is vi.sgd(jitted)


def test_nan_learning_rate_reaches_the_step():
    for factory in FACTORIES:
        optimizer = factory(float("nan"))
        step, _ = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
        assert jnp.isnan(step).all()


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: vi.adam("0.1"), TypeError, r"learning_rate must be a number >= 0 or a sch.*'0.1'"),
        (lambda: vi.adam(True), TypeError, "learning_rate must be .* got True of type bool"),
        (lambda: vi.adam(None), TypeError, "learning_rate must be .* of type NoneType"),
        (lambda: vi.adam(np.ones(2)), TypeError, "learning_rate must be .* of type ndarray"),
        (lambda: vi.sgd(1j), TypeError, "learning_rate must be .* of type complex"),
        (lambda: vi.sgd(-1e-3), ValueError, r"learning_rate must be .* got -0.001"),
        (lambda: vi.momentum(momentum=1.0), ValueError, r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: vi.momentum(momentum="x"), TypeError, r"momentum must be in \[0, 1\), got 'x'"),
        (lambda: vi.nesterov_momentum(momentum=-0.1), ValueError, r"momentum must be in \[0, 1\)"),
        (lambda: vi.rmsprop(rho=1.5), ValueError, r"rho must be in \[0, 1\), got 1.5"),
        (lambda: vi.adadelta(rho=np.nan), ValueError, r"rho must be in \[0, 1\), got nan"),
        (lambda: vi.adam(beta1=1), ValueError, r"beta1 must be in \[0, 1\), got 1"),
        (lambda: vi.adamax(beta2=-1), ValueError, r"beta2 must be in \[0, 1\), got -1"),
        (lambda: vi.adagrad(epsilon=0), ValueError, "epsilon must be a number > 0, got 0"),
        (lambda: vi.adagrad_window(n_win=0), ValueError, "n_win must be an integer >= 1, got 0"),
        (lambda: vi.adagrad_window(n_win=2.5), ValueError, "n_win must be an integer >= 1"),
        (lambda: vi.adagrad_window(n_win="2"), TypeError, "n_win must be an integer >= 1"),
        (lambda: vi.total_norm_constraint(0), ValueError, "max_norm must be a number > 0, got 0"),
        (lambda: vi.total_norm_constraint("1"), TypeError, "max_norm must be a number > 0"),
        (lambda: vi.total_norm_constraint(1, -1), ValueError, "epsilon must be a number > 0"),
        (lambda: vi.total_norm_constraint(), TypeError, "total_norm_constraint takes .*max_norm"),
        (lambda: vi.adam(lr=0.1), TypeError, r"adam takes \['learning_rate', 'beta1'.*'lr'"),
        (lambda: vi.sgd(None, None), TypeError, r"sgd takes \['learning_rate'\]: too many"),
    ],
)
def test_bad_hyperparameters(build, error, match):
    with pytest.raises(error, match=match):
        build()


def test_total_norm_constraint():
    rng = np.random.default_rng(1)
    g = {"a": rng.normal(size=3).astype("f4"), "b": rng.normal(size=(2, 2)).astype("f4")}
    norm = np.sqrt(sum(np.sum(np.float64(x) ** 2) for x in g.values()))
    for max_norm, epsilon in ((0.5, 1e-7), (100.0, 1e-7), (0.5, 1.0)):
        clip = vi.total_norm_constraint(max_norm, epsilon)
        clipped, _ = clip.update(g, clip.init(g))
        for name in g:
            expected = g[name] * np.clip(norm, 0, max_norm) / (epsilon + norm)
            np.testing.assert_allclose(clipped[name], expected, rtol=1e-6)
            assert clipped[name].dtype == g[name].dtype
    with enable_x64(True):
        mixed = {"a": jnp.ones(2, "float32"), "b": jnp.ones(2, "float64")}
        clipped, _ = clip.update(mixed, clip.init(g))
        assert [x.dtype for x in clipped.values()] == ["float32", "float64"]
    zeros, _ = clip.update({"a": jnp.zeros(2)}, clip.init(g))
    assert not zeros["a"].any()
    assert vi.total_norm_constraint(1) is vi.total_norm_constraint(max_norm=1.0)
    # In a chain the optimizer sees the shrunk gradient.
    chain = optax.chain(vi.total_norm_constraint(0.5), vi.sgd(1.0))
    step, _ = chain.update(g, chain.init(g))
    assert optax.tree.norm(step) == pytest.approx(0.5, rel=1e-5)


def stationary_sd(optimizer, n_steps=6_000, n_chains=256):
    """Mean sd of q = N(mu, sd) fitted to N(0, 1) by single draws, started at the optimum."""

    def body(t, carry):
        params, state, total = carry
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), (n_chains,))
        sd = jax.nn.softplus(params["rho"])
        z = params["mu"] + sd * noise
        grads = {"mu": z, "rho": (z * noise - 1 / sd) * jax.nn.sigmoid(params["rho"])}
        step, state = optimizer.update(grads, state)
        return optax.apply_updates(params, step), state, total + sd.mean() * (t >= n_steps // 2)

    params = {"mu": jnp.zeros(n_chains), "rho": jnp.full(n_chains, jnp.log(jnp.expm1(1.0)))}
    carry = (params, optimizer.init(params), 0.0)
    return float(jax.jit(lambda c: jax.lax.fori_loop(0, n_steps, body, c))(carry)[2]) * 2 / n_steps


def test_adagrad_window_has_the_documented_bias_and_adam_has_not():
    assert "about 8.5 %" in vi.adagrad_window.__doc__
    # The Monte Carlo error of these means is below 0.2 %.
    assert stationary_sd(vi.adagrad_window(1e-2)) == pytest.approx(1.085, abs=0.01)
    assert stationary_sd(vi.adam(1e-3)) == pytest.approx(1.0, abs=0.01)


def numpyro_run(optimizer, grads, start, losses):
    state, path = optimizer.init(start), []
    for g, loss in zip(grads, losses, strict=True):
        state = optimizer.update(g, state, value=loss)
        path.append(optimizer.get_params(state))
    return path


@pytest.mark.parametrize(
    "optimizer",
    [
        numpyro.optim.Adam(1e-2),
        numpyro.optim.ClippedAdam(1e-2, clip_norm=0.05),
        numpyro.optim.Momentum(lambda i: 0.1 / (1 + i), mass=0.9),
        numpyro.optim.optax_to_numpyro(optax.adam(1e-2)),
    ],
    ids=lambda o: type(o).__name__,
)
def test_numpyro_optimizer_steps_as_by_hand(optimizer):
    grads, losses = gradients(np.float32), np.arange(N_STEPS, dtype=np.float32)
    start = {k: jnp.ones(g.shape) for k, g in grads[0].items()}
    expected = numpyro_run(optimizer, grads, start, losses)
    transformation = optax.with_extra_args_support(vi.as_transformation(optimizer))
    params, state = start, transformation.init(start)
    for g, loss, by_hand in zip(grads, losses, expected, strict=True):
        step, state = transformation.update(g, state, params, value=loss)
        params = optax.apply_updates(params, step)
        for name in params:
            np.testing.assert_allclose(params[name], by_hand[name], rtol=3e-7, atol=1e-7)


def test_numpyro_optimizer_in_a_compiled_loop():
    optimizer = vi.as_transformation(numpyro.optim.Adam(0.1))
    params = Parameters(jnp.ones(3), jnp.zeros((0, 2)), 3)

    def body(_, carry):
        params, state = carry
        step, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, step), state

    carry = (params, optimizer.init(params))
    new, _ = jax.jit(lambda c: jax.lax.fori_loop(0, 200, body, c))(carry)
    assert new.mu.dtype == jnp.float32
    np.testing.assert_allclose(new.mu, 0, atol=1e-2)


def test_numpyro_optimizer_needs_params_and_perhaps_the_loss():
    adapted = vi.as_transformation(numpyro.optim.Adam(0.1))
    with pytest.raises(ValueError, match="a NumPyro optimizer needs params"):
        adapted.update(jnp.ones(1), adapted.init(jnp.ones(1)))
    adapted = vi.as_transformation(numpyro.optim.optax_to_numpyro(optax.sgd(0.1)))
    with pytest.raises(ValueError, match="optax_to_numpyro needs the loss: pass what it wraps"):
        adapted.update(jnp.ones(1), adapted.init(jnp.ones(1)), jnp.ones(1))


def test_as_transformation_returns_one_object():
    plain = optax.adam(1e-2)
    assert vi.as_transformation(plain) is plain
    chain = optax.chain(vi.total_norm_constraint(1.0), plain)
    assert vi.as_transformation(chain) is chain
    numpyros = numpyro.optim.Adam(1e-2)
    assert vi.as_transformation(numpyros) is vi.as_transformation(numpyros)
    assert vi.as_transformation(numpyro.optim.Adam(1e-2)) is not vi.as_transformation(numpyros)
    for factory in FACTORIES:
        assert vi.as_transformation(factory) is factory()


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (optax.adam, "must be called first.*got <function adam"),
        (numpyro.optim.Adam, "must be called first.*got <class"),
        (vi.total_norm_constraint, "must be called first.*got <function total_norm_constraint"),
        (numpyro.optim.Minimize(), "gradient steps .*got <numpyro.optim.Minimize"),
        ("adam", "got 'adam'"),
        (None, "got None"),
        (0.01, "got 0.01"),
        (np.ones(3), "got array"),
    ],
)
def test_as_transformation_refuses(given, what):
    with pytest.raises(TypeError, match=f"(?s)^obj_optimizer must be an optax transf.*{what}"):
        vi.as_transformation(given)

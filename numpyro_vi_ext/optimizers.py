r"""PyMC's optimizers, with its defaults and update rules, as optax transformations.

`sgd` says what they share. One object for equal hyperparameters is fit to be the key of a cache.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import optax

Transformation = optax.GradientTransformation
Rate = optax.ScalarOrSchedule
P = ParamSpec("P")

_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "learning_rate": ("a number >= 0 or a schedule (a callable)", lambda x: not x < 0),
    "n_win": ("an integer >= 1", lambda x: x >= 1 and x % 1 == 0),
    **dict.fromkeys(("epsilon", "max_norm"), ("a number > 0", lambda x: x > 0)),
    **dict.fromkeys(("momentum", "rho", "beta1", "beta2"), ("in [0, 1)", lambda x: 0 <= x < 1)),
}


def _validated(name: str, value: Any) -> Any:
    """Check one hyperparameter and bring equal values to one form, fit for a cache key."""
    expected, in_range = _RANGES[name]
    if name == "learning_rate" and callable(value):
        return getattr(value, "__call__")  # noqa: B004, B009  # bound: hashes by identity
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {expected}, got {value!r} of type {type(value).__name__}")
    if not in_range(value):
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return math.nan if math.isnan(value) else float(value)  # one NaN, as NaNs are never equal


def _memoised(build: Callable[P, Transformation]) -> Callable[P, Transformation]:
    """Make a factory check its hyperparameters and return one object for each set of them."""
    signature = inspect.signature(build)
    cached: Callable[..., Transformation] = functools.lru_cache(256)(build)

    @functools.wraps(build)
    def factory(*args: P.args, **kwargs: P.kwargs) -> Transformation:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{build.__name__} takes {[*signature.parameters]}: {error}") from None
        bound.apply_defaults()
        return cached(**{name: _validated(name, v) for name, v in bound.arguments.items()})

    return factory


def _per_leaf(
    learning_rate: Rate, rule: Callable[..., Any], *leading: tuple[int, ...]
) -> Transformation:
    """Step -lr * u with ``(u, *slots) = rule(g, t, *slots)``; slot k: leading[k] + g.shape."""

    def init_fn(params: Any) -> Any:
        leaves = jax.tree.leaves(params)
        slots = [[jnp.zeros(n + jnp.shape(p), jnp.result_type(p)) for n in leading] for p in leaves]
        return jnp.zeros((), jnp.int32), slots

    def update_fn(updates: Any, state: Any, params: Any = None) -> Any:
        t = optax.safe_increment(state[0])
        leaves, treedef = jax.tree.flatten(updates)
        new = [rule(g, t, *slots) for g, slots in zip(leaves, state[1], strict=True)]
        return treedef.unflatten([n[0] for n in new]), (t, [list(n[1:]) for n in new])

    by_rule = Transformation(init_fn, update_fn)
    return optax.chain(by_rule, optax.scale_by_learning_rate(learning_rate))


@_memoised
def sgd(learning_rate: Rate = 1e-3) -> Transformation:
    r"""Gradient descent, :math:`\phi_t = \phi_{t-1} - \eta g_t` (Robbins and Monro, 1951).

    :math:`g_t` is the gradient at step :math:`t = 1, 2, \dots`, :math:`\phi_t` the parameters, a
    pytree whose dtypes are kept. In all these optimizers everything is elementwise, accumulators
    start at zero, and equal hyperparameters give the same optax ``GradientTransformation``.

    Parameters
    ----------
    learning_rate : float or callable
        :math:`\eta \ge 0`, or a schedule: a function of the number of steps taken.

    Raises
    ------
    TypeError, ValueError
        If a hyperparameter is not a number, or out of its range.

    Examples
    --------
    >>> print(sgd(0.5).update(jnp.ones(1), sgd(0.5).init(jnp.zeros(1)))[0])
    [-0.5]
    """
    return optax.sgd(learning_rate)


@_memoised
def momentum(learning_rate: Rate = 1e-3, momentum: float = 0.9) -> Transformation:
    r"""Heavy ball, :math:`v_t = m v_{t-1} - \eta g_t,\; \phi_t = \phi_{t-1} + v_t`.

    Polyak (1964), doi:10.1016/0041-5553(64)90137-5. A scheduled rate applies to all of :math:`v_t`.
    Parameters and errors are those of `sgd`; ``momentum`` is :math:`m`, in [0, 1).

    >>> optimizer = momentum(0.5)
    >>> step, state = optimizer.update(jnp.ones(1), optimizer.init(jnp.zeros(1)))
    >>> print(optimizer.update(jnp.ones(1), state)[0])  # 0.9 * -0.5 - 0.5
    [-0.95]
    """
    return optax.sgd(learning_rate, momentum=momentum)


@_memoised
def nesterov_momentum(learning_rate: Rate = 1e-3, momentum: float = 0.9) -> Transformation:
    r"""Nesterov, :math:`v_t = m v_{t-1} - \eta g_t,\; \phi_t = \phi_{t-1} + m v_t - \eta g_t`.

    Sutskever et al. (2013), ICML 28(3). Parameters and errors are those of `momentum`.

    >>> print(nesterov_momentum().update(jnp.ones(1), nesterov_momentum().init(jnp.zeros(1)))[0])
    [-0.0019]
    """
    return optax.sgd(learning_rate, momentum=momentum, nesterov=True)


@_memoised
def adagrad(learning_rate: Rate = 1.0, epsilon: float = 1e-6) -> Transformation:
    r"""Adagrad: :math:`a_t = a_{t-1} + g_t^2`, step :math:`-\eta g_t / \sqrt{a_t + \epsilon}`.

    Duchi, Hazan and Singer (2011), Adaptive subgradient methods (optax starts the sum at 0.1).
    Parameters and errors are those of `sgd`; `epsilon` is :math:`\epsilon > 0`.

    >>> print(adagrad().update(jnp.array([-5.0]), adagrad().init(jnp.zeros(1)))[0].round(3))
    [1.]
    """
    return optax.adagrad(learning_rate, initial_accumulator_value=0.0, eps=epsilon)


@_memoised
def adagrad_window(
    learning_rate: Rate = 1e-3, epsilon: float = 0.1, n_win: int = 10
) -> Transformation:
    r"""Adagrad over the last ``n_win`` gradients; PyMC's default, not ours.

    .. math:: \phi_t = \phi_{t-1} - \eta g_t \Big/ \sqrt{\epsilon + \sum_{s > t - n_{win}} g_s^2}

    Biased: the current gradient is part of its own normaliser. Single-draw mean-field fits of a
    conjugate Gaussian end with posterior sds about 8.5 % too large, however long they run (PyMC
    issue 8444); `adam` or many draws per step do not. Every step is below `learning_rate`: a far
    start never arrives. Parameters and errors are those of `adagrad`; `n_win` is an integer >= 1.

    >>> print(adagrad_window().update(-9e9 * jnp.ones(1), adagrad_window().init(jnp.zeros(1)))[0])
    [0.001]
    """

    def rule(g: jax.Array, t: jax.Array, window: jax.Array) -> Any:
        window = window.at[t % window.shape[0]].set(g**2)  # a ring: overwrites the oldest square
        return g / jnp.sqrt(window.sum(0) + epsilon), window

    return _per_leaf(learning_rate, rule, (int(n_win),))


@_memoised
def rmsprop(learning_rate: Rate = 1.0, rho: float = 0.9, epsilon: float = 1e-6) -> Transformation:
    r"""RMSProp: `adagrad` with :math:`a_t = \rho a_{t-1} + (1-\rho) g_t^2`.

    Tieleman and Hinton (2012), Neural networks for machine learning, lecture 6.5. Parameters and
    errors are those of `adagrad`; `rho` is :math:`\rho`, in [0, 1).

    >>> print(rmsprop(rho=0.75).update(jnp.ones(1), rmsprop(rho=0.75).init(jnp.zeros(1)))[0])
    [-1.999996]
    """
    return optax.rmsprop(learning_rate, decay=rho, eps=epsilon, eps_in_sqrt=True)


@_memoised
def adadelta(learning_rate: Rate = 1.0, rho: float = 0.95, epsilon: float = 1e-6) -> Transformation:
    r"""Adadelta: `rmsprop` whose rate is the root mean square :math:`d` of its own steps.

    .. math:: u_t = g_t \sqrt{d_{t-1}+\epsilon} / \sqrt{a_t+\epsilon}, \quad
        \phi_t = \phi_{t-1} - \eta u_t, \quad d_t = \rho d_{t-1} + (1-\rho) u_t^2

    Zeiler (2012), arXiv:1212.5701, algorithm 1. Parameters and errors are those of `rmsprop`.

    >>> print(adadelta(rho=0.75).update(-jnp.ones(1), adadelta(rho=0.75).init(jnp.zeros(1)))[0])
    [0.002]
    """
    by_rule = optax.scale_by_adadelta(rho, epsilon)
    return optax.chain(by_rule, optax.scale_by_learning_rate(learning_rate))


@_memoised
def adam(
    learning_rate: Rate = 1e-3, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
) -> Transformation:
    r"""Adam with ``epsilon`` outside the bias correction (inside in optax).

    .. math:: m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad
        v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \\ \phi_t &= \phi_{t-1} - \eta\,
        \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}\, \frac{m_t}{\sqrt{v_t}+\epsilon}

    Kingma and Ba (2015), Adam, arXiv:1412.6980, end of section 2. Parameters and errors are those
    of `adagrad`; `beta1` and `beta2` are in [0, 1).

    >>> print(adam(0.5).update(jnp.array([3.0, -7.0]), adam(0.5).init(jnp.zeros(2)))[0].round(3))
    [-0.5  0.5]
    """

    def rule(g: jax.Array, t: jax.Array, m: jax.Array, v: jax.Array) -> Any:
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        correction = jnp.sqrt(1 - beta2**t) / (1 - beta1**t)
        return correction * m / (jnp.sqrt(v) + epsilon), m, v

    return _per_leaf(learning_rate, rule, (), ())


@_memoised
def adamax(
    learning_rate: Rate = 2e-3, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
) -> Transformation:
    r"""Adamax: `adam` with a decaying maximum :math:`u` in place of the root mean square.

    .. math:: u_t = \max(\beta_2 u_{t-1}, |g_t|), \quad
        \phi_t = \phi_{t-1} - \frac{\eta}{1-\beta_1^t}\, \frac{m_t}{u_t+\epsilon}

    Kingma and Ba (2015), Adam, arXiv:1412.6980, algorithm 2 (optax has epsilon in the maximum).
    Parameters and errors are those of `adam`.

    >>> print(adamax(0.5).update(jnp.array([3.0]), adamax(0.5).init(jnp.zeros(1)))[0].round(3))
    [-0.5]
    """

    def rule(g: jax.Array, t: jax.Array, m: jax.Array, u: jax.Array) -> Any:
        m = beta1 * m + (1 - beta1) * g
        u = jnp.maximum(beta2 * u, jnp.abs(g))
        return m / (1 - beta1**t) / (u + epsilon), m, u

    return _per_leaf(learning_rate, rule, (), ())


@_memoised
def total_norm_constraint(max_norm: float, epsilon: float = 1e-7) -> Transformation:
    r"""Shrink long gradients: :math:`g \leftarrow g \min(\|g\|, c) / (\epsilon + \|g\|)`.

    The norm is over all leaves, c is ``max_norm``. Pascanu et al. (2013), arXiv:1211.5063.
    """

    def shrink(updates: Any, params: Any = None) -> Any:
        norm = optax.tree.norm(updates)
        factor = jnp.minimum(norm, max_norm) / (epsilon + norm)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

    return optax.stateless(shrink)


_BARE = (sgd, momentum, nesterov_momentum, adagrad, adagrad_window, rmsprop, adadelta, adam, adamax)


@functools.lru_cache(64)  # keyed by identity, as these objects define no __eq__, and held strongly
def _from_numpyro(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """Adapt a NumPyro optimizer, which carries the parameters, to optax, which carries steps."""

    def update_fn(updates: Any, state: Any, params: Any = None, *, value: Any = None, **extra: Any):
        if params is None:
            raise ValueError("a NumPyro optimizer needs params: call update(grads, state, params)")
        if optimizer.update_with_value and value is None:
            raise ValueError("optax_to_numpyro needs the loss: pass what it wraps, or value=loss")
        state = optimizer.update(updates, state, value=value)
        # Minus the caller's params, not the state's old ones: rounding does not accumulate so.
        return jax.tree.map(lambda a, b: a - b, optimizer.get_params(state), params), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update_fn)


def as_transformation(optimizer: Any) -> Transformation:
    """Bring what a user may give as ``obj_optimizer`` to an optax transformation.

    That is an optax one (returned as it is), a NumPyro one (the same for the same object; its
    ``update`` needs ``params``), or a factory of this module, called or bare. Else a ``TypeError``.
    """
    from numpyro import optim

    if any(optimizer is factory for factory in _BARE):
        return optimizer()
    is_pair = all(callable(getattr(optimizer, name, None)) for name in ("init", "update"))
    refused = isinstance(optimizer, type | optim.Minimize)  # Minimize.update does nothing
    if is_pair and not refused and optimizer.__hash__ is not None:  # it is the key of a cache
        return _from_numpyro(optimizer) if isinstance(optimizer, optim._NumPyroOptim) else optimizer
    raise TypeError(
        "obj_optimizer must be an optax transformation such as optax.adam(1e-2), a NumPyro "
        "optimizer with gradient steps such as numpyro.optim.Adam(1e-2), or a factory of ours, "
        f"adam or adam(1e-2) (others must be called first); got {optimizer!r}"
    )

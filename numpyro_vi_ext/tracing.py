"""From a model function to a pure function of flat arrays, by running it twice.

The first run lays out the latent sites and records how to compute a starting point; the second
records the log density and the values of all sites as a JAX program whose closed-over arrays are
inputs. After that the model function is not called again.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions import Unit, biject_to, constraints
from numpyro.infer.initialization import init_to_mean
from numpyro.infer.util import (
    _unconstrain_reparam,
    compute_log_probs,
    helpful_support_errors,
)

from numpyro_vi_ext.errors import DiscreteLatentError

Array = jax.Array
Values = dict[str, Array]


class Site(NamedTuple):
    """Where one latent site lives in the flat unconstrained vector."""

    name: str
    slice: slice
    unconstrained_shape: tuple[int, ...]
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Sites of a model and their place in the flat vectors.

    Parameters
    ----------
    latents : tuple of Site
        In trace order.
    dims : dict
        Site name -> plate name (or None) of each axis of its value; all kinds of sites.
    observed : tuple of str
        Observed sites, factors left out.
    deterministics : tuple of str
        Deterministic sites.
    params : tuple of str
        ``numpyro.param`` sites.
    """

    latents: tuple[Site, ...]
    dims: dict[str, tuple[str | None, ...]]
    observed: tuple[str, ...]
    deterministics: tuple[str, ...]
    params: tuple[str, ...]

    @property
    def ndim(self) -> int:
        """Length of the flat unconstrained vector."""
        return sum(math.prod(s.unconstrained_shape) for s in self.latents)

    def split(self, z: Any) -> dict[str, Any]:
        """Cut a flat vector ``(..., ndim)`` into unconstrained site values."""
        return {s.name: z[..., s.slice].reshape(z.shape[:-1] + s.unconstrained_shape) for s in self.latents}

    def site_of(self, name: str) -> str:
        """The latent site that a log density term belongs to; other names as they are."""
        return next((s.name for s in self.latents if name == f"_{s.name}_log_det"), name)

    def sites_at(self, flags: np.ndarray) -> tuple[str, ...]:
        """Names of the sites with any true entry in a flat boolean vector."""
        return tuple(s.name for s in self.latents if np.any(flags[s.slice]))


class Evaluation(NamedTuple):
    """The model at one point."""

    log_prior: Array  # sum over latent sites, log Jacobians included
    log_likelihood: Array  # sum over observed and factor sites
    site_log_prob: Values  # each site's share of the two above
    values: Values  # latent (model's space) and deterministic sites
    observed: Values  # the data of the observed sites
    params: Values  # numpyro.param sites in the model's space


class Start(NamedTuple):
    """A starting point."""

    z: Array  # (ndim,) unconstrained
    theta: Array  # unconstrained values of the param sites, flat


class Recorded:
    """A function as a JAX program, with the arrays it closed over taken out as inputs.

    Calling it runs the compiled program on those arrays; `apply` takes them as an argument, for
    use inside other compiled code.
    """

    def __init__(self, fn: Callable[..., Any], *example: Any) -> None:
        closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*example)
        self._jaxpr = closed.jaxpr
        self._treedef = jax.tree.structure(shapes)
        self.shapes = shapes
        # copied: a NumPy array closed over may be changed in place by its owner
        self.constants = tuple(jnp.array(c) if isinstance(c, np.ndarray) else c for c in closed.consts)
        self._compiled = jax.jit(self.apply)

    def apply(self, constants: tuple[Array, ...], *args: Any) -> Any:
        """Evaluate with the given closed-over arrays."""
        run = jaxpr_as_fun(ClosedJaxpr(self._jaxpr, list(constants)))
        return jax.tree.unflatten(self._treedef, run(*jax.tree.leaves(args)))

    def __call__(self, *args: Any) -> Any:
        return self._compiled(self.constants, *args)


class Program:
    """A traced model: pure functions of flat arrays. Compared by identity.

    Parameters
    ----------
    fn : callable
        The model.
    rebuild : callable
        Makes ``(args, kwargs)`` of the model from `data`.
    data : tuple of arrays
        Only their shapes and dtypes matter.

    Attributes
    ----------
    layout : Layout
    start : Recorded
        ``(key, data) -> Start`` at the prior means.
    evaluate : Recorded
        ``(z, theta, key, data) -> Evaluation``.

    Raises
    ------
    ValueError
        If the model has no latent site, a duplicate site name, or mutable state.
    DiscreteLatentError
        If a latent site is discrete.
    """

    def __init__(self, fn: Callable[..., Any], rebuild: Callable[..., Any], data: tuple[Array, ...]) -> None:
        self._fn, self._rebuild = fn, rebuild
        self._example = (jax.random.key(0), jax.tree.map(jax.typeof, data))
        self.start = self.record_start(init_to_mean())
        self.evaluate = Recorded(self._evaluate, *self.start.shapes, *self._example)

    def record_start(self, strategy: Callable[[Any], Any]) -> Recorded:
        """Record the starting point that a NumPyro ``init_strategy`` gives."""

        def start(key: Array, data: tuple[Array, ...]) -> Start:
            trace = self._trace(handlers.substitute(handlers.seed(self._fn, key), substitute_fn=strategy), data)
            self.layout, z = _lay_out(trace)
            self._constraints = {name: _constraint(trace[name]) for name in self.layout.params}
            theta, self._unravel = ravel_pytree(
                {name: _unconstrain_param(trace[name]) for name in self.layout.params}
            )
            return Start(z, theta.astype(z.dtype))

        return Recorded(start, *self._example)

    @functools.cached_property
    def unconstrain(self) -> Recorded:
        """``(values, theta, key, data) -> (z, site -> whether the value is in the support)``."""
        evaluation = self.evaluate.shapes
        values = {s.name: evaluation.values[s.name] for s in self.layout.latents}
        return Recorded(self._unconstrain, values, self.start.shapes.theta, *self._example)

    def densities(self, inputs: Any, key: Array, z: Array, theta: Array) -> tuple[Array, Array]:
        """Log prior and log likelihood at one point, for use inside compiled code.

        `inputs` is the pair (data, ``evaluate.constants``).
        """
        data, constants = inputs
        evaluation = self.evaluate.apply(constants, z, theta, key, data)
        return evaluation.log_prior, evaluation.log_likelihood

    def _unconstrain(self, values: Values, theta: Array, key: Array, data: tuple[Array, ...]) -> Any:
        model = handlers.substitute(handlers.seed(self._fn, key), data={**values, **self._params(theta)})
        trace = self._trace(model, data)
        inside = {name: jnp.all(trace[name]["fn"].support(trace[name]["value"])) for name in values}
        return _lay_out(trace)[1], inside

    def _evaluate(self, z: Array, theta: Array, key: Array, data: tuple[Array, ...]) -> Evaluation:
        params = self._params(theta)
        substitute = functools.partial(_unconstrain_reparam, {**self.layout.split(z), **params})
        model = handlers.substitute(handlers.seed(self._fn, key), substitute_fn=substitute)
        args, kwargs = self._rebuild(data)
        log_prob, trace = compute_log_probs(model, args, kwargs, {})
        latents = {s.name for s in self.layout.latents}
        shown = [*(s.name for s in self.layout.latents), *self.layout.deterministics]
        latents_and_jacobians = latents | {f"_{name}_log_det" for name in latents}
        zero = jnp.zeros((), z.dtype)
        return Evaluation(
            sum((v for k, v in log_prob.items() if k in latents_and_jacobians), zero),
            sum((v for k, v in log_prob.items() if k not in latents_and_jacobians), zero),
            log_prob,
            {k: jnp.asarray(trace[k]["value"]) for k in shown},
            {k: jnp.asarray(trace[k]["value"]) for k in self.layout.observed},
            params,
        )

    def _params(self, theta: Array) -> Values:
        """Values of the param sites in the model's space."""
        unconstrained = self._unravel(theta)
        return {k: _to_constrained(self._constraints[k])(v) for k, v in unconstrained.items()}

    def _trace(self, model: Callable[..., Any], data: tuple[Array, ...]) -> dict[str, Any]:
        args, kwargs = self._rebuild(data)
        try:
            return handlers.trace(model).get_trace(*args, **kwargs)
        except AssertionError as error:
            found = re.search(r"unique names but got `(.*)` duplicated", str(error))
            if found is None:
                raise
            raise ValueError(
                f"two sites of the model are named {found[1]!r}; every sample and deterministic "
                "site needs a name of its own"
            ) from None


def _lay_out(trace: dict[str, Any]) -> tuple[Layout, Array]:
    """Place the latent sites of a trace in one flat vector, and fill it with their values."""
    expected = ("latent", "discrete", "observed", "deterministic", "param", "mutable")
    kinds: dict[str, list[str]] = {kind: [] for kind in expected}
    for name, site in trace.items():
        kinds.setdefault(_kind(site), []).append(name)
    _check_kinds(kinds)
    dtype = jnp.result_type(float)
    sites, pieces, offset = [], [jnp.zeros(0, dtype)], 0
    for name in kinds["latent"]:
        value = jnp.asarray(trace[name]["value"])
        with helpful_support_errors(trace[name]):
            unconstrained = biject_to(trace[name]["fn"].support).inv(value)
        end = offset + unconstrained.size
        sites.append(Site(name, slice(offset, end), unconstrained.shape, value.shape))
        pieces.append(jnp.ravel(unconstrained).astype(dtype))
        offset = end
    shown = (*kinds["latent"], *kinds["observed"], *kinds["deterministic"])
    layout = Layout(
        tuple(sites),
        {name: _axis_plates(trace[name]) for name in shown},
        tuple(kinds["observed"]),
        tuple(kinds["deterministic"]),
        tuple(kinds["param"]),
    )
    return layout, jnp.concatenate(pieces)


def _kind(site: dict[str, Any]) -> str:
    if site["type"] != "sample":
        return site["type"]
    if site["is_observed"]:
        return "factor" if isinstance(site["fn"], Unit) else "observed"
    return "discrete" if site["fn"].support.is_discrete else "latent"


def _check_kinds(kinds: dict[str, list[str]]) -> None:
    if kinds["discrete"]:
        raise DiscreteLatentError(tuple(kinds["discrete"]))
    if kinds["mutable"]:
        raise ValueError(
            f"the model has mutable state, which is not supported: {kinds['mutable']}; make it an "
            "argument of the model or a numpyro.param"
        )
    if not kinds["latent"]:
        raise ValueError(
            "the model has no latent sites, so there is nothing to infer; its observed sites are "
            f"{kinds['observed']}. Is a value passed for a site that should be latent?"
        )


def _axis_plates(site: dict[str, Any]) -> tuple[str | None, ...]:
    """Name of the plate that each axis of the site's value runs over, if any."""
    shape = jnp.shape(site["value"])
    event_dim = site["fn"].event_dim if site["type"] == "sample" else 0
    names: list[str | None] = [None] * len(shape)
    for frame in site["cond_indep_stack"]:
        axis = len(shape) - event_dim + frame.dim
        if 0 <= axis < len(shape) and shape[axis] == frame.size:
            names[axis] = frame.name
    return tuple(names)


def _constraint(site: dict[str, Any]) -> Any:
    return site["kwargs"].get("constraint", constraints.real)


def _to_constrained(constraint: Any) -> Callable[[Any], Any]:
    """The map onto a constraint; a param without one may be any pytree of arrays."""
    return (lambda value: value) if constraint is constraints.real else biject_to(constraint)


def _unconstrain_param(site: dict[str, Any]) -> Any:
    constraint = _constraint(site)
    value = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), site["value"])
    return value if constraint is constraints.real else biject_to(constraint).inv(value)

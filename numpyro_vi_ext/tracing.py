"""From a model function to a pure function of flat arrays, by running it twice.

The first run lays out the latent sites and records how to compute a starting point; the second
records the log density and the values of all sites as a JAX program whose closed-over arrays are
inputs. After that the model function is called again only for a start that is not at the prior
means, and for values that are to be unconstrained.
"""

import copy
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer.initialization import init_to_mean
from numpyro.infer.util import _unconstrain_reparam, compute_log_probs
from numpyro.primitives import Messenger

from numpyro_vi_ext.identity import Fingerprint, fingerprint
from numpyro_vi_ext.layout import (
    Layout,
    constrain_param,
    deterministic_values,
    lay_out,
    ravel_params,
)
from numpyro_vi_ext.recording import Recorded

Array = jax.Array
Values = dict[str, Array]

_MOST_STRATEGIES = 8


class Evaluation(NamedTuple):
    """The model at one point."""

    log_prior: Array  # sum over latent sites, log Jacobians included
    log_likelihood: Array  # sum over observed and factor sites
    site_log_prob: Values  # each site's share of the two above
    values: Values  # latent (model's space) and deterministic sites
    observed: Values  # the data of the observed sites
    params: Values  # numpyro.param sites in the model's space

    @property
    def sites(self) -> Values:
        """Values of all sites but the params."""
        return {**self.values, **self.observed}


class _Unchecked(Messenger):
    """Leaves out whether real values are numbers, which NumPyro's validation asks each time.

    That is most of the time of a cheap likelihood. NaN and infinite data still give a log density
    that is not finite.
    """

    def process_message(self, msg: dict[str, Any]) -> None:
        """Before the log density is asked for."""
        if msg["type"] == "sample":
            msg["fn"] = _unchecked(msg["fn"])


def _unchecked(fn: Any) -> Any:
    """The same distribution without the check, where its support is all real numbers."""
    support: Any = getattr(fn, "support", None)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support is not constraints.real:
        return fn
    fn = copy.copy(fn)
    fn._validate_args = False
    if hasattr(fn, "base_dist"):
        fn.base_dist = _unchecked(fn.base_dist)
    return fn


class Start(NamedTuple):
    """A starting point."""

    z: Array  # (ndim,) unconstrained
    theta: Array  # unconstrained values of the param sites, flat


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
    data_shapes : tuple
        Shapes and dtypes of the data.
    start : Recorded
        ``(key, data) -> Start`` at the prior means.

    Raises
    ------
    ValueError
        If the model has no latent site, a duplicate site name, or mutable state.
    DiscreteLatentError
        If a latent site is discrete.
    """

    layout: Layout
    _unravel: Callable[[Array], dict[str, Any]]

    def __init__(
        self, fn: Callable[..., Any], rebuild: Callable[..., Any], data: tuple[Array, ...]
    ) -> None:
        self._fn, self._rebuild = fn, rebuild
        self.data_shapes: Any = jax.tree.map(jax.typeof, data)
        self._example = (jax.random.key(0), self.data_shapes)
        self._strategies: list[tuple[Fingerprint, Recorded]] = []
        self.start: Recorded = self.start_by(init_to_mean)

    def start_by(self, strategy: Callable[[Any], Any]) -> Recorded:
        """``(key, data) -> Start`` at the point that a NumPyro ``init_strategy`` gives."""
        now = fingerprint(strategy)
        for known, recorded in self._strategies:
            if known == now:
                return recorded

        def start(key: Array, data: tuple[Array, ...]) -> Start:
            model = handlers.substitute(handlers.seed(self._fn, key), substitute_fn=strategy)
            trace = self._trace(model, data)
            layout, z = lay_out(trace)
            theta, unravel = ravel_params(trace, layout.params)
            if not hasattr(self, "layout"):
                self.layout, self._unravel = layout, unravel
            return Start(z, theta)

        recorded = Recorded(start, *self._example)
        self._strategies = [*self._strategies[-_MOST_STRATEGIES:], (now, recorded)]
        return recorded

    @functools.cached_property
    def evaluate(self) -> Recorded:
        """``(z, theta, key, data) -> Evaluation``."""
        return Recorded(self._evaluate, *self.start.shapes, *self._example)

    @functools.cached_property
    def unconstrain(self) -> Recorded:
        """``(values, theta, key, data) -> (z, site -> whether the value is in the support)``."""
        evaluation = self.evaluate.shapes
        values = {s.name: evaluation.values[s.name] for s in self.layout.latents}
        return Recorded(self._unconstrain, values, self.start.shapes.theta, *self._example)

    @functools.cached_property
    def terms_use(self) -> dict[str, Any]:
        """For each term of the log density, flags on ``(z, theta, key, data)`` it depends on."""
        none = jax.tree.map(lambda x: False, self.evaluate.shapes)
        terms = none.site_log_prob
        return {
            name: self.evaluate.used_by(none._replace(site_log_prob={**terms, name: True}))
            for name in terms
        }

    @functools.cached_property
    def is_random(self) -> bool:
        """Whether the log density depends on what the model itself draws, such as a subsample."""
        flags = jax.tree.map(lambda x: False, self.evaluate.shapes)
        flags = flags._replace(log_prior=True, log_likelihood=True)
        return self.evaluate.used_by(flags)[2]

    @functools.cached_property
    def closed_over(self) -> tuple[str, ...]:
        """Observed sites whose data depend on no data argument."""
        names, dependent = self.layout.observed, self.sites_of_data((True,) * len(self.data_shapes))
        return tuple(name for name in names if name not in dependent)

    def sites_of_data(self, arguments: tuple[bool, ...]) -> frozenset[str]:
        """Deterministic and observed sites that depend on any of the flagged data arguments."""
        shapes, latents = self.evaluate.shapes, {s.name for s in self.layout.latents}
        none, found = jax.tree.map(lambda x: False, shapes), []
        for field in ("values", "observed"):
            for name in getattr(shapes, field).keys() - latents:
                flags = none._replace(**{field: {**getattr(none, field), name: True}})
                *_, used = self.evaluate.used_by(flags)
                found += [name] if any(map(bool.__and__, arguments, used)) else []
        return frozenset(found)

    def densities(
        self,
        inputs: Any,
        key: Array,
        z: Array,
        theta: Array,
        scales: Sequence[tuple[str, float]] = (),
    ) -> tuple[Array, Array]:
        """Log prior and log likelihood at one point, for use inside compiled code.

        `inputs` is the pair (data, ``evaluate.constants``). The observed and factor sites named in
        `scales` count as many times as it says, others once.
        """
        data, constants = inputs
        evaluation = self.evaluate.apply(constants, z, theta, key, data)
        log_likelihood = evaluation.log_likelihood
        for name, scale in scales:
            log_likelihood += (scale - 1) * evaluation.site_log_prob[name]
        return evaluation.log_prior, log_likelihood

    def _unconstrain(self, values: Values, theta: Array, key: Array, data: Any) -> Any:
        model = handlers.substitute(handlers.seed(self._fn, key), data=values)
        model = handlers.substitute(model, substitute_fn=self._params_at(theta))
        trace = self._trace(model, data)
        inside = {name: jnp.all(trace[name]["fn"].support(trace[name]["value"])) for name in values}
        return lay_out(trace)[1], inside

    def _evaluate(self, z: Array, theta: Array, key: Array, data: Any) -> Evaluation:
        latents = functools.partial(_unconstrain_reparam, self.layout.split(z))
        model = handlers.substitute(handlers.seed(self._fn, key), substitute_fn=latents)
        model = handlers.substitute(model, substitute_fn=self._params_at(theta))
        args, kwargs = self._rebuild(data)
        log_prob, trace = compute_log_probs(_Unchecked(model), args, kwargs, {})
        names = [s.name for s in self.layout.latents]
        of_prior = {name for name in log_prob if self.layout.site_of(name) in names}
        computed = {name: value for name, (_, value) in deterministic_values(trace).items()}
        zero = jnp.zeros((), z.dtype)
        return Evaluation(
            sum((v for k, v in log_prob.items() if k in of_prior), zero),
            sum((v for k, v in log_prob.items() if k not in of_prior), zero),
            log_prob,
            {**{k: jnp.asarray(trace[k]["value"]) for k in names}, **computed},
            {k: jnp.asarray(trace[k]["value"]) for k in self.layout.observed},
            {k: trace[k]["value"] for k in self.layout.params},
        )

    def _params_at(self, theta: Array) -> Callable[[Any], Any]:
        """For ``handlers.substitute``: the param sites at given unconstrained values."""
        unconstrained = self._unravel(theta)

        def value(site: dict[str, Any]) -> Any:
            if site["type"] == "param" and site["name"] in unconstrained:
                return constrain_param(site, unconstrained[site["name"]])
            return None

        return value

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

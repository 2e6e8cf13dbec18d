"""A model run again: at other arguments, with values given for its latent sites.

Nothing is laid out here: the new arguments may change shapes, and sites that had data may lack
them. Subsampled plates run over all their rows.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from numpyro import distributions as dist
from numpyro import handlers, primitives

from numpyro_vi_ext.arguments import Arguments
from numpyro_vi_ext.cache import find_traced
from numpyro_vi_ext.layout import axis_plates, deterministic_values
from numpyro_vi_ext.tracing import Recorded, Values

Array = jax.Array
Inputs = tuple[tuple[Array, ...], tuple[Array, ...]]  # argument data, closed-over arrays


Mode = Literal["observe", "weigh", "predict"]


class Outcome(NamedTuple):
    """The sites of one run."""

    latents: Values  # those that were given
    drawn: Values  # sample sites without value or data
    computed: Values  # deterministic sites
    observed: Values  # data of the observed sites
    log_likelihood: Values  # of each value of the observed sites, unscaled; if weighed

    @property
    def sites(self) -> Values:
        """Values of all sites."""
        return {**self.latents, **self.drawn, **self.computed, **self.observed}


class Rerun:
    """A model traced with its latent sites and params given. Compared by identity.

    Parameters
    ----------
    given : pair of dicts
        Shapes of the values of latent and of param sites, by name.
    mode : str
        What becomes of observed sites: "observe" keeps their data, "weigh" computes their log
        density as well, "predict" sets the data aside and draws them.
    fn, rebuild, data
        As for `Program`.

    Attributes
    ----------
    dims : dict
        Site name -> plate name (or None) of each axis.
    shapes : Outcome
        Of what comes out.

    Raises
    ------
    ValueError
        If the given value of a latent site has not the shape that the arguments imply.
    """

    def __init__(
        self,
        given: tuple[Values, Values],
        mode: Mode,
        fn: Callable[..., Any],
        rebuild: Callable[..., Any],
        data: tuple[Array, ...],
    ) -> None:
        self._fn, self._rebuild, self._mode = fn, rebuild, mode
        self._example = (given, jax.random.key(0), jax.tree.map(jax.typeof, data))
        self.dims: dict[str, tuple[str | None, ...]] = {}
        self.shapes: Outcome = jax.eval_shape(self._run, *self._example)

    @functools.cached_property
    def evaluate(self) -> Recorded:
        """``(given, key, data) -> Outcome``."""
        return Recorded(self._run, *self._example)

    def _run(self, given: tuple[Values, Values], key: Array, data: Any) -> Outcome:
        latents, params = given
        model = _AllRows(self._fn)
        model = _Unobserve(model) if self._mode == "predict" else model
        model = handlers.substitute(model, data={**params, **latents})
        model = handlers.seed(_CheckShapes(model, latents), key)
        args, kwargs = self._rebuild(data)
        trace = handlers.trace(model).get_trace(*args, **kwargs)
        found: dict[str, dict[str, Any]] = {"given": {}, "drawn": {}, "observed": {}}
        for name, site in trace.items():
            if site["type"] == "sample" and not isinstance(site["fn"], dist.Unit):
                observed = "observed" if site["is_observed"] else "drawn"
                found["given" if name in latents else observed][name] = site
        computed = deterministic_values(trace)
        weighed = found["observed"] if self._mode == "weigh" else {}
        sites = {name: site for kind in found.values() for name, site in kind.items()}
        self.dims = {name: axis_plates(site) for name, site in sites.items()}
        self.dims |= {n: axis_plates(trace[site], value) for n, (site, value) in computed.items()}
        return Outcome(
            _values(found["given"]),
            _values(found["drawn"]),
            {name: value for name, (_, value) in computed.items()},
            _values(found["observed"]),
            {name: _log_prob(site) for name, site in weighed.items()},
        )


@dataclasses.dataclass(frozen=True)
class Again:
    """A rerun and the data it is made on.

    Parameters
    ----------
    rerun : Rerun
        Pure functions.
    data : tuple of arrays
        Values of the model's data arguments.
    """

    rerun: Rerun
    data: tuple[Array, ...]

    @property
    def inputs(self) -> Inputs:
        """All that compiled code reads besides the given values."""
        return self.data, self.rerun.evaluate.constants


def find_rerun(
    fn: Callable[..., Any], arguments: Arguments, given: tuple[Values, Values], mode: Mode
) -> Again:
    """The model traced at these arguments, from the cache if nothing that it reads has changed.

    Parameters as for `Rerun`; of the given values only the shapes matter.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype), given)
    leaves, treedef = jax.tree.flatten(shapes)
    make = functools.partial(Rerun, shapes, mode)
    return Again(*find_traced(fn, arguments, make, (Rerun, mode, tuple(leaves), treedef)))


def _values(sites: dict[str, dict[str, Any]]) -> Values:
    return {name: jnp.asarray(site["value"]) for name, site in sites.items()}


def _log_prob(site: dict[str, Any]) -> Array:
    if site["intermediates"]:
        return site["fn"].log_prob(site["value"], site["intermediates"])
    return site["fn"].log_prob(site["value"])


class _AllRows(primitives.Messenger):
    """Lets subsampled plates run over all their rows."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "plate":
            size, _ = msg["args"]
            msg["args"], msg["value"] = (size, size), jnp.arange(size)


class _Unobserve(primitives.Messenger):
    """Takes the data away from observed sites, factors left alone, so that they are drawn.

    Must stand inside whatever gives keys and values to sites. Sites in a ``scan`` are met after
    it: each is drawn given the data of the steps before it.
    """

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["is_observed"] and not isinstance(msg["fn"], dist.Unit):
            msg["is_observed"], msg["value"], msg["intermediates"] = False, None, []
            msg["kwargs"] = {**msg["kwargs"], "rng_key": None}


class _CheckShapes(primitives.Messenger):
    """Refuses values of latent sites that do not fit the arguments."""

    def __init__(self, fn: Callable[..., Any], latents: Values) -> None:
        self.latents = latents
        primitives.Messenger.__init__(self, fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or msg["name"] not in self.latents:
            return
        given = jnp.shape(self.latents[msg["name"]])
        expected = (*msg["kwargs"].get("sample_shape", ()), *msg["fn"].shape())
        if given != expected:
            raise ValueError(
                f"the latent site {msg['name']!r} has shape {given} in the approximation, but "
                f"{expected} at the new arguments: nothing is known of the new entries. Keep "
                "what its shape follows from as it was in the fit, or give the site a value in "
                "more_replacements."
            )

"""A model run again: at other arguments, with values given for its latent sites.

Nothing is laid out here: the new arguments may change shapes, and sites that had data may lack
them. Subsampled plates run over all their rows, unless their batches are arguments.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from numpyro import handlers, primitives

from numpyro_vi_ext.arguments import Arguments
from numpyro_vi_ext.cache import find_traced
from numpyro_vi_ext.layout import axis_plates, deterministic_values, innermost, is_factor
from numpyro_vi_ext.recording import Recorded
from numpyro_vi_ext.tracing import Values

Array = jax.Array
Mode = Literal["observe", "weigh", "predict", "replicate"]


class Outcome(NamedTuple):
    """The sites of one run."""

    latents: Values  # those that were given
    drawn: Values  # sample sites without value or data
    computed: Values  # deterministic sites
    observed: Values  # data of the observed sites, used or set aside
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
        density as well, "predict" sets the data aside and draws them, "replicate" does so in the
        shape of the data.
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
        self._batches: set[int] = set()  # sizes of the batches that plates draw
        self._fed = False  # whether these batches are arguments, and no rows are drawn
        try:
            self.shapes: Outcome = jax.eval_shape(self._run, *self._example)
        except Exception:
            if not self._batches:
                raise
        if not hasattr(self, "shapes") or 1 in self._batches:  # one row would be repeated
            self._fed = not self._rows_matter()
            self.shapes = jax.eval_shape(self._run, *self._example)

    @functools.cached_property
    def evaluate(self) -> Recorded:
        """``(given, key, data) -> Outcome``."""
        return Recorded(self._run, *self._example)

    @functools.cached_property
    def closed_over(self) -> tuple[str, ...]:
        """Observed sites whose data depend on no data argument."""
        names = self.shapes.observed
        used = {name: jax.tree.leaves(self._used_by("observed", name)[2]) for name in names}
        return tuple(name for name in names if not any(used[name]))

    @functools.cached_property
    def random(self) -> tuple[str, ...]:
        """Deterministic sites that depend on what is drawn here."""
        names = self.shapes.computed
        return tuple(name for name in names if self._used_by("computed", name)[1])

    def _used_by(self, field: str, name: str) -> Any:
        """Flags on ``(given, key, data)``: whether a site depends on them."""
        none = jax.tree.map(lambda x: False, self.shapes)
        flags = {**getattr(none, field), name: True}
        return self.evaluate.used_by(none._replace(**{field: flags}))

    def _rows_matter(self) -> bool:
        """Whether anything depends on which rows the subsampled plates draw."""
        try:
            recorded = Recorded(self._run, *self._example, jnp.zeros((), int))
        except Exception:
            return True
        return recorded.used_by(jax.tree.map(lambda x: True, recorded.shapes))[-1]

    def _run(
        self, given: tuple[Values, Values], key: Array, data: Any, shift: Any = None
    ) -> Outcome:
        latents, params = given
        aside: Values = {}
        shift = 0 if self._fed else shift
        model: Any = _Rows(self._fn, self._batches, shift)
        if self._mode in ("predict", "replicate"):
            model = _Unobserve(model, aside, in_shape=self._mode == "replicate")
        # In this order latent sites get keys, unused, so that a model with randomness of its own
        # draws the same here as in its `Program`.
        model = handlers.substitute(handlers.seed(model, key), data={**params, **latents})
        model = _CheckSites(model, latents)
        args, kwargs = self._rebuild(data)
        trace = handlers.trace(model).get_trace(*args, **kwargs)
        found: dict[str, dict[str, Any]] = {"given": {}, "drawn": {}, "observed": {}}
        for name, site in trace.items():
            if site["type"] == "sample" and not is_factor(site["fn"]):
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
            {**_values(found["observed"]), **aside},
            {name: _log_prob(site) for name, site in weighed.items()},
        )


class Elsewhere(NamedTuple):
    """A rerun, the data it is made on, and what it is given in place of q's values."""

    rerun: Rerun
    data: tuple[Array, ...]  # the model's data arguments
    latents: Values  # latent site -> value in the model's space

    @property
    def inputs(self) -> tuple[tuple[Array, ...], tuple[Array, ...], Values]:
        """All that compiled code reads besides what it reads of the model and q."""
        return self.data, self.rerun.evaluate.constants, self.latents


def find_rerun(
    fn: Callable[..., Any],
    arguments: Arguments,
    given: tuple[Values, Values],
    mode: Mode,
    latents: Values,
) -> Elsewhere:
    """The model traced at these arguments, from the cache if nothing that it reads has changed.

    Parameters
    ----------
    fn, arguments
        The model, and what it is called with.
    given, mode
        As for `Rerun`: shapes of the values that q has for latent and param sites.
    latents : dict
        Values that stand in for some of them, or are added.
    """
    values = {**given[0], **latents}, given[1]
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype), values)
    leaves, treedef = jax.tree.flatten(shapes)
    make = functools.partial(Rerun, shapes, mode)
    rerun, bound = find_traced(fn, arguments, make, (Rerun, mode, tuple(leaves), treedef))
    return Elsewhere(rerun, bound.data, latents)


def _values(sites: dict[str, dict[str, Any]]) -> Values:
    return {name: jnp.asarray(site["value"]) for name, site in sites.items()}


def _log_prob(site: dict[str, Any]) -> Array:
    if site["intermediates"]:
        return site["fn"].log_prob(site["value"], site["intermediates"])
    return site["fn"].log_prob(site["value"])


class _Rows(primitives.Messenger):
    """Lets subsampled plates run over all their rows; with a `shift`, over a batch from there on.

    The sizes of the batches are added to `batches`.
    """

    def __init__(self, fn: Callable[..., Any], batches: set[int], shift: Any = None) -> None:
        self.batches, self.shift = batches, shift
        primitives.Messenger.__init__(self, fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "plate":
            return
        size, batch = msg["args"]
        if batch is not None and batch != size:
            self.batches.add(batch)
            if self.shift is not None:
                msg["value"] = jnp.arange(batch) + self.shift
                return
        msg["args"], msg["value"] = (size, size), jnp.arange(size)


class _Unobserve(primitives.Messenger):
    """Takes the data away from observed sites, factors left alone, so that they are drawn.

    Must stand inside whatever gives keys and values to sites. Sites in a ``scan`` are met after
    it: each is drawn given the data of the steps before it. The data are put into `aside`. With
    `in_shape`, a site is drawn in their shape even if its distribution has fewer axes.
    """

    def __init__(self, fn: Callable[..., Any], aside: Values, in_shape: bool) -> None:
        self.aside, self.in_shape = aside, in_shape
        primitives.Messenger.__init__(self, fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or not msg["is_observed"] or is_factor(msg["fn"]):
            return
        data, fn = jnp.asarray(msg["value"]), msg["fn"]
        self.aside[msg["name"]] = data
        # The distribution of a scanned site may lack the time axis.
        if self.in_shape or "_control_flow_done" in msg:
            batch_shape = data.shape[: data.ndim - fn.event_dim]
            msg["fn"] = fn.expand(jnp.broadcast_shapes(fn.batch_shape, batch_shape))
        msg["is_observed"], msg["value"], msg["intermediates"] = False, None, []
        msg["kwargs"] = {**msg["kwargs"], "rng_key": None}


class _CheckSites(primitives.Messenger):
    """Refuses values of latent sites that do not fit, and distributions that cannot be drawn."""

    def __init__(self, fn: Callable[..., Any], latents: Values) -> None:
        self.latents = latents
        primitives.Messenger.__init__(self, fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.latents:
            self._check_shape(msg)
        elif msg["type"] == "sample" and msg["value"] is None:
            _draw(msg)

    def _check_shape(self, msg: dict[str, Any]) -> None:
        given = jnp.shape(self.latents[msg["name"]])
        expected = (*msg["kwargs"].get("sample_shape", ()), *msg["fn"].shape())
        if "_control_flow_done" in msg:  # of a scan: NumPyro misses the time axis in some shapes
            expected = jnp.shape(msg["value"])
        if given != expected:
            raise ValueError(
                f"the latent site {msg['name']!r} has shape {given} in the approximation (or in "
                f"more_replacements), but {expected} at the new arguments: nothing is known of the "
                "new entries. Keep what its shape follows from as it was in the fit, or give the "
                "site a value of its new shape in more_replacements."
            )


def _draw(msg: dict[str, Any]) -> None:
    """Draw a site as NumPyro does, but say which one it is that cannot be drawn."""
    try:
        primitives.default_process_message(msg)
    except NotImplementedError as error:
        kind = type(innermost(msg["fn"])).__name__
        raise ValueError(
            f"the site {msg['name']!r} cannot be drawn: NumPyro has no draws of its distribution, "
            f"{kind}. Give it another one, or do without these draws."
        ) from error

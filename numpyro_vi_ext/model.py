"""A NumPyro model bound to its arguments."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.arguments import Arguments
from numpyro_vi_ext.cache import Target, find_target
from numpyro_vi_ext.feeding import Fed, find_fed
from numpyro_vi_ext.layout import Site
from numpyro_vi_ext.recording import Inputs
from numpyro_vi_ext.seeds import Seed, as_key
from numpyro_vi_ext.tracing import Evaluation

__all__ = ["Inputs", "Model", "Target", "as_model"]

Array = jax.Array

_BOUND_ALREADY = (
    "the model is bound to its arguments already; pass model_args and model_kwargs with a plain "
    "callable, or use model.replace(name=value)"
)


class Model:
    """A NumPyro callable bound to its arguments.

    Arguments with a shape and a numeric dtype, and floats, are data: inputs of compiled code, so
    that new data of the same shape compile nothing. Ints, bools, strings and all other objects
    reach the model as they are. What the function closes over and the globals it reads are looked
    at again at every use: changed values are seen, unchanged ones cost no recompilation.

    Parameters
    ----------
    fn : callable
        A NumPyro model; a ``functools.partial`` binds arguments like the ones given here.
    *args, **kwargs
        The model's arguments.

    Raises
    ------
    TypeError
        If `fn` is not callable, cannot be called with these arguments, or an argument is an array
        of object dtype.
    DiscreteLatentError
        Later, where the model is first looked at, if a latent site is discrete.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
    >>> bound = Model(model, 2.0)
    >>> bound.latents, bound.ndim
    (('mu',), 1)
    >>> print(f"{bound.log_density(jnp.ones(1)):.4f}")
    -2.8379
    >>> bound.constrain(bound.unconstrain({"mu": 0.5}))
    {'mu': Array(0.5, dtype=float32)}
    >>> bound.replace(y=3.0).named_data
    {'y': array(3., dtype=float32)}
    """

    def __init__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        while isinstance(fn, functools.partial):
            args, kwargs, fn = (*fn.args, *args), {**fn.keywords, **kwargs}, fn.func
        if isinstance(fn, Model):
            raise TypeError(_BOUND_ALREADY)
        if not callable(fn):
            raise TypeError(f"model must be a NumPyro callable or a Model, got {type(fn).__name__}")
        self.fn = fn
        self.arguments: Arguments = Arguments.bind(fn, args, kwargs)

    def __reduce__(self) -> Any:
        return _bind, (self.fn, self.arguments.args, self.arguments.kwargs)

    def __repr__(self) -> str:
        name = getattr(self.fn, "__name__", type(self.fn).__name__)
        return f"Model({', '.join([name, *self.arguments.names])})"

    @property
    def target(self) -> Target:
        """The model as traced now; traced again only if something it reads has changed."""
        return find_target(self.fn, self.arguments)

    def refreshed(self) -> "Model":
        """The model with the data that its Minibatch arguments hold now; itself if unchanged."""
        return self if self.arguments.is_current() else self.replace()

    def fed(self, target: Target, point: tuple[Any, Array], total_size: Any = None) -> Fed:
        """The model as the steps of a fit see it, tried near one point: for internal use."""
        point = jnp.asarray(point[0], jnp.result_type(float)), point[1]
        return find_fed(self.fn, self.arguments, target, point, total_size)

    @property
    def latents(self) -> tuple[str, ...]:
        """Names of the latent sites, in trace order."""
        return tuple(s.name for s in self.target.layout.latents)

    @property
    def ndim(self) -> int:
        """Dimension of the unconstrained space."""
        return self.target.layout.ndim

    @property
    def named_data(self) -> dict[str, np.ndarray]:
        """Values of the data arguments, by name; without those that come from a Stream."""
        arguments = self.arguments
        leaves = {
            arguments.names[i]: arguments.leaves[i]
            for i, data in enumerate(arguments.is_data)
            if data and i not in arguments.streamed
        }
        return {
            name: np.asarray(leaf)
            for name, leaf in leaves.items()
            if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        }

    def replace(self, /, **arguments: Any) -> "Model":
        """Bind other values to some arguments, by name.

        Parameters
        ----------
        **arguments
            Argument of the model -> its new value.

        Returns
        -------
        Model
            A new one; this one is left as it is.

        Raises
        ------
        KeyError
            If the model has no argument of that name.
        """
        args, kwargs = self.arguments.replace(arguments)
        return Model(self.fn, *args, **kwargs)

    def log_density(self, z: Any, *, random_seed: Seed = 0) -> Array:
        """Joint log density, Jacobians included, at flat unconstrained points.

        Equals minus NumPyro's ``potential_energy``. ``numpyro.param`` sites are at their initial
        values; the seed matters only for models that draw subsamples.

        Parameters
        ----------
        z : array, shape (..., ndim)
            Unconstrained points, sites in trace order.
        random_seed : int, JAX key or None
            For internal subsampling.

        Returns
        -------
        array, shape (...)
            In nats.

        Raises
        ------
        ValueError
            If the last axis of `z` is not of length `ndim`, or data come from a `Stream`.
        """
        target = self.target
        target.check_data("the log density needs")
        evaluation = _evaluate(target, z, random_seed)
        return evaluation.log_prior + evaluation.log_likelihood

    def constrain(self, z: Any, *, random_seed: Seed = 0) -> dict[str, Array]:
        """Latent and deterministic sites, in the model's space, at flat unconstrained points.

        Parameters as in `log_density`.

        Returns
        -------
        dict
            Site name -> array of shape ``(..., *site shape)``. Deterministic sites that depend on
            data from a `Stream` are left out.

        Raises
        ------
        ValueError
            If the last axis of `z` is not of length `ndim`.
        """
        target = self.target
        return target.known(_evaluate(target, z, random_seed).values)

    def unconstrain(self, values: dict[str, Any], *, random_seed: Seed = 0) -> Array:
        """Flat unconstrained vector of a full set of latent values in the model's space.

        Parameters
        ----------
        values : dict
            Latent site name -> value; other names are ignored.
        random_seed : int, JAX key or None
            For internal subsampling.

        Returns
        -------
        array, shape (ndim,)

        Raises
        ------
        KeyError
            If a latent site is missing.
        ValueError
            If a value has not the shape of its site.
        """
        target = self.target
        missing = [s.name for s in target.layout.latents if s.name not in values]
        if missing:
            raise KeyError(f"values are missing for the latent sites {missing}")
        given = {s.name: _site_value(s, values[s.name]) for s in target.layout.latents}
        key = as_key(random_seed)
        theta = target.initial_params(key)
        return target.program.unconstrain(given, theta, key, target.data)[0]


def _evaluate(target: Target, z: Any, random_seed: Seed) -> Evaluation:
    key = as_key(random_seed)
    return target.evaluate_all(z, target.initial_params(key), key)


def _bind(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Model:
    return Model(fn, *args, **kwargs)


def _site_value(site: Site, value: Any) -> Array:
    value = jnp.asarray(value, jnp.result_type(float))
    if value.shape != site.shape:
        raise ValueError(
            f"the value of the site {site.name!r} has shape {value.shape}, expected {site.shape}"
        )
    return value


def as_model(model: Any, model_args: Any = (), model_kwargs: dict[str, Any] | None = None) -> Model:
    """Bind a callable to its arguments; a `Model` is returned as it is.

    Raises
    ------
    TypeError
        If arguments are given for a `Model`, which is bound already, or have the wrong type.
    """
    if not isinstance(model_args, tuple | list):
        raise TypeError(
            f"model_args must be a tuple, got {type(model_args).__name__}; for one argument write "
            "model_args=(x,)"
        )
    if not isinstance(model_kwargs, dict | None):
        raise TypeError(f"model_kwargs must be a dict, got {type(model_kwargs).__name__}")
    if not isinstance(model, Model):
        return Model(model, *model_args, **(model_kwargs or {}))
    if model_args or model_kwargs:
        raise TypeError(_BOUND_ALREADY)
    return model

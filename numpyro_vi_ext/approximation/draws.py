"""What all approximations can be asked for: draws, nodes and predictions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext import evaluate, nodes
from numpyro_vi_ext.approximation import bridges
from numpyro_vi_ext.approximation.judged import ApproximationJudged
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.errors import only_batches
from numpyro_vi_ext.families.empirical import Histogram
from numpyro_vi_ext.model import Model
from numpyro_vi_ext.replacements import split_replacements
from numpyro_vi_ext.rerun import Elsewhere, Mode, find_rerun
from numpyro_vi_ext.seeds import Seed, as_key

Array = jax.Array


class ApproximationDraws(ApproximationJudged):
    """Abstract: how q is drawn from, and the model evaluated at its draws."""

    def sample_dict(
        self, draws: int = 500, random_seed: Seed = None, *, importance: bool = False
    ) -> dict[str, Array]:
        """Draws of the latent and deterministic sites, in the model's space.

        Parameters
        ----------
        draws : int
            How many.
        random_seed : int, JAX key or None
            None gives fresh draws at each call.
        importance : bool
            Whether to draw ten times as many, 2,500 at least, and to choose among them by their
            Pareto smoothed importance weights, in random order: nearer to the posterior, where
            k-hat is below 0.7 (see `diagnose`).

        Returns
        -------
        dict
            Site name -> array of shape ``(draws, *site shape)``. Deterministic sites that depend
            on data from a `Stream` are left out.

        Raises
        ------
        TypeError
            If `draws` is not an int; with `importance`, if q has no density.
        ValueError
            If `draws` is negative; with `importance`, if data come from a `Stream`, or the model
            draws a subsample inside.

        Warns
        -----
        UserWarning
            If k-hat is not below its threshold.

        Examples
        --------
        >>> import numpyro, numpyro.distributions as dist
        >>> import numpyro_vi_ext as vi
        >>> def model():
        ...     numpyro.sample("s", dist.LogNormal(0, 1))
        >>> approx = vi.MeanField(model, start={"s": 1.0})
        >>> approx.sample_dict(1000)["s"].shape, approx.draw(0)["s"].shape
        ((1000,), ())
        >>> approx.constrain(np.zeros((4, 1)))
        {'s': Array([1., 1., 1., 1.], dtype=float32)}
        """
        draws, key = as_count(draws, "draws", 0), as_key(random_seed)
        keys, _ = self.choose(draws, key, importance)
        return evaluate.draw_many(self.target, self.point, keys, draws)

    def draw(self, key: Seed) -> dict[str, Array]:
        """Site values of one draw: a pure JAX function of the key.

        It works inside ``jit``, ``vmap`` and ``grad``.

        Parameters
        ----------
        key : JAX key, int or None
            None gives a fresh draw at each call.

        Returns
        -------
        dict
            Latent or deterministic site -> array of the shape of the site.

        Raises
        ------
        TypeError
            If `key` is something else.
        """
        return evaluate.draw(self.target, self.point, as_key(key))

    def constrain(self, z: Any) -> dict[str, Array]:
        """Latent and deterministic sites at flat unconstrained points.

        As ``model.constrain``, but with the model's own params as this fit has them.

        Parameters
        ----------
        z : array, shape (..., ndim)

        Returns
        -------
        dict
            Site name -> array of shape ``(..., *site shape)``.

        Raises
        ------
        ValueError
            If the last axis of `z` is not of length `ndim`.
        """
        found = self.target.evaluate_all(z, self.point.theta, jax.random.key(0))
        return self.target.known(found.values)

    def sample_node(
        self,
        node: Any,
        size: int | None = None,
        *,
        deterministic: bool = False,
        more_replacements: Mapping[str, Any] | None = None,
        random_seed: Seed = None,
        block_size: int | None = None,
    ) -> Any:
        """Evaluate anything that can be computed from the sites, under q.

        Parameters
        ----------
        node : str, callable, or list, tuple or dict of nodes
            The name of a site, or a function of the dict of all site values: latent,
            deterministic and observed ones, these with their data. All parts see the same draws.
            A function is compiled, so it has to use ``jax.numpy``; it is compiled once, even if a
            new but equal function is passed the next time.
        size : int or None
            Number of draws, along a new leading axis. None: one draw, without that axis.
        deterministic : bool
            Put the latent sites at the transform of q's mean in unconstrained space, instead of
            drawing them.
        more_replacements : dict, optional
            Model argument -> value to run the model with instead, of any length; or latent
            site -> value in the model's space to fix it at.
        random_seed : int, JAX key or None
            None gives fresh draws at each call; a seed those of `sample_dict` with that seed.
        block_size : int, optional
            Draws evaluated at once. By default as many as fill 2**22 numbers (16 MiB in single
            precision); it changes memory and speed, not the draws.

        Returns
        -------
        JAX array, or a list, tuple or dict of those like `node`

        Raises
        ------
        KeyError
            Unknown site, or a replacement that is neither argument nor latent site.
        TypeError
            If `node` is neither of the above, or `size` not a scalar.
        ValueError
            If `size` is negative, or a replacement has a wrong shape; if the node depends on data
            that come from a `Stream` and are not replaced.

        Examples
        --------
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> import numpyro_vi_ext as vi
        >>> def model(x, y=None):
        ...     w = numpyro.sample("w", dist.Normal(0, 1))
        ...     numpyro.deterministic("mean", w * x)
        ...     numpyro.sample("y", dist.Normal(w * x, 1), obs=y)
        >>> x, y = jnp.arange(3.0), jnp.array([0.1, 0.9, 2.1])
        >>> approx = vi.fit(model, 2000, model_args=(x, y), random_seed=0, warmup=False,
        ...                 progressbar=False)
        >>> square = approx.sample_node(lambda s: s["w"] ** 2, size=1000, random_seed=1)
        >>> print(square.shape, f"{square.mean():.2f}")
        (1000,) 0.88
        >>> approx.sample_node("mean", more_replacements={"x": jnp.ones(5)}).shape
        (5,)
        """
        size, block_size = _as_size(size), as_block(block_size)
        key = as_key(0 if deterministic and random_seed is None else random_seed)
        point = self.point
        if deterministic:
            point = point._replace(q=Histogram(jnp.asarray(point.q.mean())[None]))
        where = self._where(more_replacements)
        return nodes.sample_node(self.target, point, node, key, size, where, block_size)

    @property
    def guide(self) -> Callable[..., None]:
        """A NumPyro guide that draws from q, without params of its own.

        For ``Predictive(model, guide=approx.guide, params={}, num_samples=...)``,
        ``psis_diagnostic``, and as the guide of ``SVI(...).evaluate``. It may be called with any
        arguments, and ignores them. Values of ``numpyro.param`` sites of the model are not its
        business: pass ``params=approx.model_params``. That of an `Empirical` draws, but has no
        log density.
        """
        return bridges.make_guide(self.target, self.point)

    # -- the model elsewhere

    def _where(self, replacements: Mapping[str, Any] | None) -> Elsewhere | None:
        """Where a node is evaluated; None where the model was fitted."""
        if replacements is None:
            return None
        found = self.replaced(self.model, replacements)
        return self.elsewhere(*found) if replacements else None

    def _over_rows(self, rows: Array, node: Any, replacements: Any, block_size: Any) -> Any:
        """Evaluate a node at flat unconstrained vectors, in order."""
        where, theta = self._where(replacements), self.point.theta
        size = as_block(block_size)
        return nodes.evaluate_over_rows(self.target, rows, theta, node, where, size)

    def replaced(
        self, model: Model, replacements: Mapping[str, Any] | None
    ) -> tuple[Model, dict[str, Array]]:
        """A model with some arguments replaced, and values that stand in for latent sites."""
        arguments, latents = split_replacements(model, self.target, replacements)
        return model.replace(**arguments) if arguments else model, latents

    def elsewhere(
        self,
        model: Model,
        latents: dict[str, Array],
        mode: Mode = "observe",
        *,
        prior: bool = False,
    ) -> Elsewhere:
        """Where the model is run again.

        Parameters
        ----------
        model : Model
            Bound to the arguments there.
        latents : dict
            Values that stand in for those of q.
        mode : str
            What becomes of observed sites: see `Rerun`.
        prior : bool
            True draws the latent sites from the prior.

        Raises
        ------
        ValueError
            If data come from a Stream there.
        """
        if model.arguments.streamed:
            names = [model.arguments.names[i] for i in sorted(model.arguments.streamed)]
            raise only_batches("running the model again needs", names)
        shapes = self.target.program.evaluate.shapes
        names = () if prior else self.ordering
        given = {name: shapes.values[name] for name in names}, shapes.params
        try:
            return find_rerun(model.fn, model.arguments, given, mode, latents)
        except Exception as error:
            if model is not self.model:
                error.add_note("This happened when the model was run at other arguments.")
            raise


def _as_size(size: Any) -> int | None:
    if size is None:
        return None
    if np.ndim(size):
        raise TypeError(f"size must be a scalar, None or a whole number, got {size!r}")
    return as_count(size, "size", 0)


def as_block(block_size: Any) -> int | None:
    """Check how many draws are evaluated at once."""
    return None if block_size is None else as_count(block_size, "block_size", 1)

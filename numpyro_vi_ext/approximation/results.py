"""What all approximations give to ArviZ: draws, predictions, log likelihoods, a summary."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from numpyro_vi_ext import io_arviz
from numpyro_vi_ext.approximation import grouping
from numpyro_vi_ext.approximation.draws import ApproximationDraws, as_block
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.io_arviz import Groups
from numpyro_vi_ext.model import as_model
from numpyro_vi_ext.seeds import Seed, as_key

Names = Mapping[str, Sequence[str | None]]


class Approximation(ApproximationDraws):
    """A distribution q over the latent sites of a model: a value, never changed by later fits.

    Abstract: a fit returns a `MeanField`, `FullRank` or `Empirical`. Its ``model`` is the `Model`.
    Everything "flat" is a vector over the unconstrained space, sites in trace order (`ordering`).

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> import numpyro_vi_ext as vi
    >>> def model(y=None):
    ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
    >>> approx = vi.MeanField(model, model_args=(2.0,))
    >>> approx.to_arviz(100)["posterior_predictive"]["y"].shape, *approx.summary().index
    ((1, 100), 'mu')
    """

    def sample(
        self,
        draws: int = 500,
        *,
        random_seed: Seed = None,
        importance: bool = False,
        return_inferencedata: bool = True,
        include_transformed: bool = False,
        **to_arviz: Any,
    ) -> Any:
        """Draw from q, ready for ArviZ.

        Parameters
        ----------
        draws, random_seed, importance
            As in `sample_dict`. With `importance`, the attributes have ``khat`` and how the draws
            were chosen, ``draws_by``.
        return_inferencedata : bool
            False returns a dict of NumPy arrays of shape ``(draws, *site shape)``.
        include_transformed : bool
            Whether to add the unconstrained values, as ``<site>__unconstrained``.
        **to_arviz
            Options of `to_arviz`, such as ``coords``, ``dims`` or ``log_likelihood``; here
            ``posterior_predictive`` is False by default.

        Returns
        -------
        InferenceData, DataTree or dict
            What the installed ArviZ works with: group ``posterior`` with one chain,
            ``observed_data``, ``constant_data`` (the model's data arguments), and ``fit_stats``
            with the losses (variable ``loss``, dimension ``step``). In a DataTree, a slash in a
            name becomes a dot. How the fit came about stands in the attributes.

        Raises
        ------
        TypeError, ValueError
            As `sample_dict`; TypeError also for an option that cannot be applied; ValueError if
            `coords` or `dims` do not fit the shapes, or data from a `Stream` are needed.
        """
        options = {"random_seed": random_seed, "include_transformed": include_transformed}
        options["importance"] = importance
        if return_inferencedata:
            return self.to_arviz(draws, **options, **{"posterior_predictive": False, **to_arviz})
        given = [name for name, value in to_arviz.items() if value is not None]
        if given:
            raise TypeError(f"{given} cannot be applied with return_inferencedata=False")
        draws, key = as_count(draws, "draws", 0), as_key(random_seed)
        keys, _ = self.choose(draws, key, importance)
        values = grouping.posterior(self, draws, keys, include_transformed)
        return {name: np.asarray(value) for name, value in values.items()}

    def to_arviz(
        self,
        draws: int = 500,
        *,
        random_seed: Seed = None,
        importance: bool = False,
        posterior_predictive: bool = True,
        predictions: Mapping[str, Any] | None = None,
        log_likelihood: bool = False,
        prior: bool = False,
        include_transformed: bool = False,
        coords: Mapping[str, Any] | None = None,
        dims: Names | None = None,
    ) -> Any:
        """All groups that ArviZ knows, of the same draws from q.

        Parameters
        ----------
        draws, random_seed, importance, include_transformed
            As in `sample`.
        posterior_predictive : bool
            Whether to draw the observed sites for the original data. As many numbers as there are
            draws times data: False, or `sample`, where that is too many.
        predictions : dict, optional
            Replacements for which to draw the observed sites, as in `sample_posterior_predictive`;
            group ``predictions``, with the new data in ``predictions_constant_data``. Those
            `coords` are left out there that have another length.
        log_likelihood : bool
            Whether to add the log likelihood of each datum, which ``az.loo`` and ``az.compare``
            need: on the full data, and never scaled.
        prior : bool
            Whether to add as many draws from the prior, in groups ``prior`` and
            ``prior_predictive``.
        coords, dims : dict, optional
            Dimension -> labels, and site -> names of its dimensions, as ArviZ takes them.
            Dimensions are otherwise named after the model's plates.

        Returns
        -------
        InferenceData or DataTree
            The groups of `sample`, and those asked for.

        Raises
        ------
        KeyError, TypeError, ValueError
            As `sample` and `sample_posterior_predictive`.
        """
        if not isinstance(predictions, Mapping | None):
            got = type(predictions).__name__
            raise TypeError(f"predictions must be a dict of replacements, got {got}")
        draws, key = as_count(draws, "draws", 0), as_key(random_seed)
        groups = Groups(coords, dims)
        keys, chosen = self.choose(draws, key, importance)
        values = grouping.posterior(self, draws, keys, include_transformed)
        grouping.add_posterior(groups, self, values)
        if posterior_predictive:
            grouping.add_predictive(groups, self, self.model, {}, keys, draws)
        if predictions is not None:
            elsewhere = self.replaced(self.model, predictions)
            grouping.add_predictive(groups, self, *elsewhere, keys, draws, "predictions")
        if log_likelihood:
            grouping.add_log_likelihood(groups, self, keys, draws)
        if prior:
            grouping.add_prior(groups, self, key, draws)
        return groups.assemble({**grouping.attributes(self), **chosen})

    def sample_posterior_predictive(
        self,
        draws: int = 500,
        *,
        model_args: Any = None,
        model_kwargs: dict[str, Any] | None = None,
        more_replacements: Mapping[str, Any] | None = None,
        random_seed: Seed = None,
        return_inferencedata: bool = True,
        block_size: int | None = None,
    ) -> Any:
        """Draw the observed sites, for the original data or for new ones.

        Observed sites are drawn whether or not they have data; if they have, the data are set
        aside, also where the model computes with them. Subsampled plates run over all their rows.
        In a ``scan``, a site that has data is drawn given the data of the steps before it.

        Parameters
        ----------
        draws, random_seed
            As in `sample_dict`; with the same seed, the draws of the latent sites are the same.
        model_args, model_kwargs : tuple, dict
            What to call the model with instead: the whole call, as for NumPyro's ``Predictive``.
        more_replacements : dict, optional
            Model argument -> value, or latent site -> value, as in `sample_node`.
        return_inferencedata : bool
            False returns a dict of NumPy arrays of shape ``(draws, *site shape)``.
        block_size : int, optional
            As in `sample_node`.

        Returns
        -------
        InferenceData, DataTree or dict
            Group ``posterior_predictive`` beside ``observed_data`` and ``constant_data``; if an
            argument has a new value, group ``predictions`` beside ``predictions_constant_data``.
            Both have the deterministic sites as well.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a replacement, or the model's arguments, are wrong; and if a latent site would have
            another shape at the new arguments.

        Warns
        -----
        UserWarning
            If arguments are new, but the model closes over the data of an observed site.

        Examples
        --------
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> import numpyro_vi_ext as vi
        >>> def model(x, y=None):
        ...     w = numpyro.sample("w", dist.Normal(0, 1))
        ...     numpyro.sample("y", dist.Normal(w * x, 1), obs=y)
        >>> x, y = jnp.arange(3.0), jnp.array([0.1, 0.9, 2.1])
        >>> approx = vi.fit(model, 200, model_args=(x, y), warmup=False, progressbar=False)
        >>> new = approx.sample_posterior_predictive(1000, more_replacements={"x": jnp.ones(5)})
        >>> new["predictions"]["y"].shape
        (1, 1000, 5)
        """
        draws, key = as_count(draws, "draws", 0), as_key(random_seed)
        block_size, model = as_block(block_size), self.model
        if model_args is not None or model_kwargs is not None:
            model = as_model(model.fn, () if model_args is None else model_args, model_kwargs)
        elsewhere, groups = self.replaced(model, more_replacements), Groups()
        values = grouping.add_predictive(
            groups, self, *elsewhere, key, draws, block_size=block_size
        )
        if not return_inferencedata:
            return {name: np.asarray(value) for name, value in values.items()}
        if "predictions" not in groups:
            grouping.add_data(groups, self)
        return groups.assemble(grouping.attributes(self))

    def summary(
        self,
        draws: int = 4000,
        *,
        quantiles: Sequence[float] = (0.05, 0.5, 0.95),
        var_names: Sequence[str] | None = None,
        random_seed: Seed = None,
    ) -> Any:
        """Mean, standard deviation and quantiles of each site, in the model's space.

        Computed from draws, so that they are right for constrained sites as well. There are no
        r-hat and no effective sample size: draws from q are independent by construction, and say
        nothing about how near q is to the posterior.

        Parameters
        ----------
        draws, random_seed
            As in `sample_dict`.
        quantiles : sequence of float
            Each between 0 and 1.
        var_names : list of str, or str, optional
            Latent and deterministic sites to show; all by default.

        Returns
        -------
        pandas.DataFrame
            A row per number, labelled as ArviZ does. ``columns.name`` says what the numbers are,
            ``attrs`` how the fit came about.

        Raises
        ------
        KeyError
            Unknown site.
        ValueError, TypeError
            If `draws` is less than 2, a quantile outside of [0, 1], or something of another type.
        """
        draws, key = as_count(draws, "draws", 2), as_key(random_seed)
        values = grouping.posterior(self, draws, key)
        table = io_arviz.summarise(values, self.target.layout.dims, quantiles, var_names)
        table.columns.name = f"{type(self).__name__} (VI), {draws:,d} draws"
        table.attrs.update(grouping.attributes(self))
        return table


def sample_approx(approx: Approximation, draws: int = 100, **options: Any) -> Any:
    """Draw from an approximation: the same as ``approx.sample(draws, **options)``.

    Parameters
    ----------
    approx : Approximation
        Of any kind.
    draws, **options
        As in `Approximation.sample`, also what is returned, and the errors.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> import numpyro_vi_ext as vi
    >>> approx = vi.MeanField(lambda: numpyro.sample("x", dist.Normal(3, 1)))
    >>> sample_approx(approx, 10)["posterior"]["x"].shape
    (1, 10)
    """
    check_approx(approx, "sample_approx draws from")
    return approx.sample(draws, **options)


def check_approx(approx: Any, what: str) -> None:
    """Refuse anything else, in a message that begins with what it is for."""
    if not isinstance(approx, Approximation):
        raise TypeError(f"{what} an Approximation, got {type(approx).__name__}")

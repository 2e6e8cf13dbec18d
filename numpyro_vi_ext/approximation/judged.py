"""What all approximations tell of their own quality: a verdict, and draws chosen by weights."""

import abc
from typing import Any

import jax

from numpyro_vi_ext.approximation.base import ApproximationBase
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.errors import warn
from numpyro_vi_ext.seeds import Seed, as_key
from numpyro_vi_ext.verdict import Verdict
from numpyro_vi_ext.weights import LEAST_DRAWS, Resampled

Array = jax.Array


class ApproximationJudged(ApproximationBase):
    """Abstract: how near q is to the posterior."""

    def diagnose(self, draws: int = 4000, *, random_seed: Seed = None) -> Verdict:
        """Judge whether q can be trusted, and say what to do next.

        Looked at are the importance weights of draws from q: the k-hat of their tail, what they do
        to means and sds, and what their pattern says of the posterior's shape; points far from q;
        and how the fit ended. Always on the full data, never scaled. For an `Empirical`, which has
        no density: what Stein's identity says of the rows, and how many there are.

        Parameters
        ----------
        draws : int
            Draws to weigh, at least 100. From 2,155 on the threshold of k-hat is 0.7; with 4,000
            k-hat varies by about 0.1 from seed to seed. At most so many rows of an `Empirical`.
        random_seed : int, JAX key or None
            None gives fresh draws at each call.

        Returns
        -------
        Verdict
            Prints in plain words.

        Raises
        ------
        TypeError
            If `draws` is not an int.
        ValueError
            If `draws` is less than 100, or data come from a `Stream`.

        References
        ----------
        Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work? Evaluating variational
        inference, ICML. Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance
        sampling, JMLR 25.

        Examples
        --------
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> import numpyro_vi_ext as vi
        >>> def model():
        ...     cov = jnp.array([[1.0, 0.95], [0.95, 1.0]])
        ...     numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), cov))
        >>> approx = vi.fit(model, random_seed=0, progressbar=False)
        >>> verdict = approx.diagnose(random_seed=1)
        >>> verdict.ok, verdict.khat > verdict.khat_threshold
        (False, True)
        >>> print(verdict.advice[0])
        The posterior is correlated at x[0] and x[1]: take full rank (method='fullrank_advi').
        """
        draws, key = as_count(draws, "draws", LEAST_DRAWS), as_key(random_seed)
        return self._diagnose(draws, key)

    @abc.abstractmethod
    def _diagnose(self, draws: int, key: Array) -> Verdict:
        """Look at q, as its kind allows."""

    def choose(self, draws: int, key: Array, importance: bool) -> tuple[Array, dict[str, Any]]:
        """Keys of draws, chosen by importance weights or not, and what there is to say of it."""
        if not importance:
            return key, {}
        keys, found = self._resample(draws, key)
        if not found.khat < found.threshold:
            warn(
                f"k-hat of the importance weights is {found.khat:.2f}, not below "
                f"{found.threshold:.2f}: few draws have most of the weight, so the smoothed draws "
                "cannot be relied on either. See approx.diagnose() for what to do.",
            )
        told = f"smoothed importance resampling from {len(found.smoothed):,d} draws"
        attrs = {"draws_by": told, "khat": found.khat, "khat_threshold": found.threshold}
        return keys, attrs

    @abc.abstractmethod
    def _resample(self, draws: int, key: Array) -> Resampled:
        """Choose draws by their importance weights."""

"""What a fit returns: the kinds of approximation."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.approximation_base import Approximation, Facts
from numpyro_vi_ext.families.base import DensityFamily
from numpyro_vi_ext.families.gaussian import DenseGaussian, DiagonalGaussian
from numpyro_vi_ext.model import as_model
from numpyro_vi_ext.seeds import Seed, as_key
from numpyro_vi_ext.start import find_start, start_sigma_vector

__all__ = ["Approximation", "Facts", "FullRank", "MeanField", "sample_approx"]

_START_SD = float(np.log(2))  # softplus(0)


class _Gaussian(Approximation):
    """Abstract: how every Gaussian begins; what is final names its family."""

    _family: ClassVar[type[DensityFamily]]

    def __init__(
        self,
        model: Any,
        *,
        model_args: Any = (),
        model_kwargs: dict[str, Any] | None = None,
        random_seed: Seed = None,
        start: Mapping[str, Any] | None = None,
        start_sigma: Mapping[str, Any] | None = None,
        init_strategy: Any = None,
    ) -> None:
        self.model = as_model(model, model_args, model_kwargs)
        self.target, self._facts = self.model.target, Facts()
        found = find_start(self.target, as_key(random_seed), start, init_strategy)
        sigma = start_sigma_vector(self.target.layout, start_sigma, _START_SD)
        self.point = Point(self._family.create(np.asarray(found.z), sigma), found.theta)


class MeanField(_Gaussian):
    """Independent Gaussians over the unconstrained space, unfitted.

    Parameters
    ----------
    model : Model or callable
        A NumPyro model; a callable is bound to `model_args` and `model_kwargs`.
    model_args, model_kwargs : tuple, dict
        The model's arguments.
    random_seed : int, JAX key or None
        For starting points that are drawn.
    start : dict, optional
        Site name -> value in the model's space; the others start at their prior mean where it is
        finite, else at the median of prior draws, else at a uniform draw.
    start_sigma : dict, optional
        Site name -> initial standard deviation in unconstrained space; default softplus(0).
    init_strategy : callable, optional
        A NumPyro ``init_to_*`` strategy in place of the default.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(3, 1))
    >>> MeanField(model).mean, MeanField(model, start_sigma={"x": 0.5}).std
    (array([3.], dtype=float32), array([0.5], dtype=float32))
    """

    _family = DiagonalGaussian


class FullRank(_Gaussian):
    """A Gaussian with a dense covariance over the unconstrained space, unfitted.

    Parameters, start and initial standard deviations are those of `MeanField`.
    """

    _family = DenseGaussian


def sample_approx(approx: Approximation, draws: int = 100, **options: Any) -> Any:
    """Draw from an approximation: the same as ``approx.sample(draws, **options)``."""
    return approx.sample(draws, **options)

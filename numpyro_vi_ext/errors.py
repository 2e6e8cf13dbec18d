"""Errors that carry more than a sentence, and warnings that point at the user's line."""

import functools
import sys
import warnings
from collections.abc import Iterable
from typing import Any

_INSIDE = ("numpyro_vi_ext", "numpyro", "jax")  # packages whose lines say nothing to a user


def warn(message: str) -> None:
    """Warn, at the innermost line that is none of this package, NumPyro or JAX."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


class Converged(StopIteration):
    """Raised by a callback to stop a fit because it has converged."""


class DiscreteLatentError(ValueError):
    """The model has discrete latent sites, which gradient-based inference cannot move.

    Parameters
    ----------
    sites : tuple of str
        Names of the discrete latent sites, in trace order.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> import numpyro_vi_ext as vi
    >>> try:
    ...     vi.fit(lambda: numpyro.sample("k", dist.Bernoulli(0.5)))
    ... except vi.DiscreteLatentError as error:
    ...     error.sites
    ('k',)
    """

    def __init__(self, sites: tuple[str, ...]) -> None:
        self.sites = sites
        names = ", ".join(repr(s) for s in sites)
        ValueError.__init__(
            self,
            f"discrete latent sites are not supported by variational inference: {names}. "
            "Marginalise them by hand (a mixture as MixtureSameFamily, a hidden Markov model "
            "by its forward algorithm), observe them, or sample them with NumPyro's MCMC on a "
            "model wrapped in numpyro.contrib.funsor.config_enumerate.",
        )

    def __reduce__(self) -> Any:
        return type(self), (self.sites,)


class NonFiniteError(FloatingPointError):
    """A loss or a variational parameter became NaN or infinite during a fit.

    Parameters
    ----------
    message : str
        What went bad, where, and what to try.
    step : int
        The step (from 1) at which it went bad.
    sites : tuple of str
        Sites whose parameters or log density went bad.
    approx : Approximation
        The last finite approximation, usable as the result of a fit.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> import numpyro_vi_ext as vi
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(3, 1))
    >>> try:
    ...     vi.fit(model, 200, obj_optimizer=vi.sgd(1e30), random_seed=0, progressbar=False)
    ... except vi.NonFiniteError as error:
    ...     print(error.step, error.sites, error.approx.steps)
    2 ('x',) 1
    """

    def __init__(self, message: str, *, step: int, sites: tuple[str, ...], approx: Any) -> None:
        FloatingPointError.__init__(self, message)
        self.step = step
        self.sites = sites
        self.approx = approx

    def __reduce__(self) -> Any:
        """Pickled without the approximation, whose model may not be importable."""
        known = functools.partial(NonFiniteError, step=self.step, sites=self.sites, approx=None)
        return known, self.args


def only_batches(what: str, arguments: Iterable[str]) -> ValueError:
    """What to raise where data are needed that come from a Stream.

    Parameters
    ----------
    what : str
        The beginning of the sentence: what cannot be had, and "needs" or "need".
    arguments : iterable of str
        Names of the model's arguments in question.
    """
    names = [*arguments]
    given = ", ".join(f"{name}=..." for name in names)
    return ValueError(
        f"{what} the data of the arguments {names}, which come from a Stream: only batches of them "
        "are known, and one batch would be taken for all. Give them arrays that fit into memory, "
        "or None, in more_replacements (or in model_args and model_kwargs), where there is such an "
        f"option; elsewhere use approx.with_model(approx.model.replace({given}))."
    )

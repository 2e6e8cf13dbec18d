"""Approximations from files."""

import os
from typing import Any

from numpyro_vi_ext import saving
from numpyro_vi_ext.approximation.base import Facts
from numpyro_vi_ext.approximation.empirical import Empirical
from numpyro_vi_ext.approximation.gaussian import FullRank, MeanField
from numpyro_vi_ext.approximation.results import Approximation
from numpyro_vi_ext.model import as_model

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (MeanField, FullRank, Empirical)}


def load(
    path: str | os.PathLike[str],
    model: Any,
    *,
    model_args: Any = (),
    model_kwargs: dict[str, Any] | None = None,
) -> Approximation:
    """Load an approximation that was saved with ``approx.save(path)``.

    Nothing in the file is executed. With the same version of JAX and the same precision, equal
    seeds give equal draws as before; otherwise the parameters take on JAX's present precision.

    Parameters
    ----------
    path : str or path
        The file.
    model, model_args, model_kwargs
        The model it was fitted to, bound to its arguments; a file does not have it.

    Returns
    -------
    Approximation
        Of the kind that was saved, with its history and status.

    Raises
    ------
    OSError
        If the file cannot be read.
    TypeError
        If `path` is no path, or `model` no model that can be called with these arguments.
    ValueError
        If the file is damaged, is something else, was written by a later version of this package,
        or belongs to a model with other latent sites.

    Examples
    --------
    >>> import tempfile, numpyro, numpyro.distributions as dist
    >>> import numpyro_vi_ext as vi
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(3, 1))
    >>> approx = vi.fit(model, 500, random_seed=0, progressbar=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     approx.save(f"{folder}/fit.npz")
    ...     vi.load(f"{folder}/fit.npz", model)
    MeanField(sites=[x], ndim=1, steps=500, average loss=..., status='finished')
    """
    saved, bound = saving.read(path), as_model(model, model_args, model_kwargs)
    kind = _KINDS.get(saved.header["kind"])
    if kind is None:
        raise ValueError(f"{os.fspath(path)!r} has an unknown kind {saved.header['kind']!r}")
    target = bound.target
    theta = target.program.start.shapes.theta
    point = saved.point(kind.family, target.layout, theta)
    facts = Facts(losses=(saved.losses,), **saved.header["facts"])
    return kind.of(bound, target, point, facts)

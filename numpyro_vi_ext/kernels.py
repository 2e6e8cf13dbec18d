r"""Kernels between points, for Stein methods.

With :math:`s(x) = \nabla \log p(x)` the score of the target, a kernel gives the direction that
takes points towards the target fastest (Liu and Wang 2016, eq. 8),

.. math:: \phi(x_i) = \frac{1}{n} \sum_j k(x_j, x_i)\, s(x_j) + \nabla_{x_j} k(x_j, x_i),

and how far they are from it, the kernelised Stein discrepancy (Liu, Lee and Jordan 2016, def. 3.2,
with its V-statistic), which is the mean of
:math:`s(x_i)^\top \phi(x_i) + \nabla \cdot \phi(x_i)` over the points.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from numpyro_vi_ext.bandwidth import (
    Bandwidth,
    Constant,
    Given,
    as_bandwidth,
    centred,
    squared_distances,
)
from numpyro_vi_ext.blocks import in_blocks
from numpyro_vi_ext.checks import as_number
from numpyro_vi_ext.identity import Compared

Array = jax.Array


_NONE = Given(Constant(1.0))  # where there is no bandwidth


class Kernel(abc.ABC):
    """Abstract: a kernel k(x, y); hashable, compared by its parts."""

    bandwidth: Bandwidth

    @abc.abstractmethod
    def direction(self, x: Array, score: Array, bandwidth: Array) -> Array:
        """The Stein direction phi at each of the points x; all of shape (n, d)."""

    @abc.abstractmethod
    def discrepancy(self, x: Array, score: Array, bandwidth: Array) -> Array:
        """The kernelised Stein discrepancy of the points, a number that is not negative."""


class Radial(Kernel):
    r"""Abstract: :math:`k(x, y) = f(u)` with :math:`u = \|x - y\|^2 / 2h`."""

    @abc.abstractmethod
    def profile(self, u: Array) -> Array:
        """The function f, elementwise."""

    def direction(self, x: Array, score: Array, bandwidth: Array) -> Array:
        n, d = x.shape
        near = x - jnp.mean(x, axis=0)  # differences of sums below, which must not cancel
        columns = jnp.concatenate([score, near, jnp.ones((n, 1), x.dtype)], axis=1)
        x = centred(x)

        def at(pair: tuple[Array, Array]) -> Array:
            row, near = pair
            f, df = self._derivatives(row, x, bandwidth, 1)
            # One product serves both for the Gaussian, whose f and -df are the same array.
            push, pull = _sums(f, columns)[:d], _sums(-df, columns)[d:]
            return (push + (near * pull[d] - pull[:d]) / bandwidth) / n

        return in_blocks(at, (x, near))

    def discrepancy(self, x: Array, score: Array, bandwidth: Array) -> Array:
        n, d = x.shape
        near = x - jnp.mean(x, axis=0)
        inner = jnp.sum(near * score, axis=1, keepdims=True)
        columns = jnp.concatenate([score, near, inner, jnp.ones((n, 1), x.dtype)], axis=1)
        x = centred(x)

        def at(of_one: tuple[Array, Array, Array]) -> Array:
            row, near, s = of_one
            f, df, ddf = self._derivatives(row, x, bandwidth, 2)
            u = squared_distances(row, x) / (2 * bandwidth)
            push, pull = _sums(f, columns)[:d], _sums(df, columns)
            # (x_i - x_j)^T (s_i - s_j), summed with the weights df
            parallel = (near @ s) * pull[-1] - near @ pull[:d] - s @ pull[d : 2 * d] + pull[2 * d]
            trace = jnp.sum(2 * u * ddf + d * df)
            return (s @ push - (parallel + trace) / bandwidth) / n

        return jnp.mean(in_blocks(at, (x, near, score)))

    def _derivatives(self, row: Array, x: Array, bandwidth: Array, order: int) -> tuple[Array, ...]:
        """The function f between one point and all, and its derivatives in u."""
        u = squared_distances(row, x) / (2 * bandwidth)
        ones = jnp.ones_like(u)

        def first(u: Array) -> tuple[Array, Array]:
            return jax.jvp(self.profile, (u,), (ones,))

        if order == 1:
            return first(u)
        (f, df), (_, ddf) = jax.jvp(first, (u,), (ones,))
        return f, df, ddf


@dataclasses.dataclass(frozen=True)
class Gaussian(Radial):
    """See `rbf`."""

    bandwidth: Bandwidth

    def profile(self, u: Array) -> Array:
        return jnp.exp(-u)


@dataclasses.dataclass(frozen=True)
class InverseMultiquadric(Radial):
    """See `imq`."""

    bandwidth: Bandwidth
    exponent: float

    def profile(self, u: Array) -> Array:
        return (1 + u) ** self.exponent


@dataclasses.dataclass(frozen=True)
class Pairwise(Kernel):
    """A function ``k(x, y)`` of two points of shape (d,), which JAX can differentiate."""

    function: Callable[[Array, Array], Array]
    bandwidth: Bandwidth = _NONE

    def direction(self, x: Array, score: Array, bandwidth: Array) -> Array:
        def at(row: Array) -> Array:
            k, dk = jax.vmap(jax.value_and_grad(self.function), (0, None))(x, row)
            return (_sums(k, score) + jnp.sum(dk, axis=0)) / len(x)

        return in_blocks(at, x)

    def discrepancy(self, x: Array, score: Array, bandwidth: Array) -> Array:
        k = self.function

        def between(x: Array, s: Array, y: Array, t: Array) -> Array:
            value, (by_x, by_y) = jax.value_and_grad(k, (0, 1))(x, y)
            mixed = jax.jacfwd(jax.grad(k, 0), 1)(x, y)
            return value * (s @ t) + s @ by_y + t @ by_x + jnp.trace(mixed)

        def at(pair: tuple[Array, Array]) -> Array:
            return jnp.mean(jax.vmap(between, (0, 0, None, None))(x, score, *pair))

        return jnp.mean(in_blocks(at, (x, score)))


def rbf(bandwidth: float | Callable[[Array], Any] | None = None) -> Kernel:
    r"""The Gaussian kernel :math:`k(x, y) = \exp(-\|x - y\|^2 / 2h)`.

    Parameters
    ----------
    bandwidth : float or callable, optional
        h > 0, in units of squared distances in unconstrained space, or a function of the points,
        shape (n, d), that gives it at each step. By default the median heuristic
        :math:`h = m / (2 \log(n + 1))` with m the median of all :math:`n^2` squared distances (Liu
        and Wang 2016, section 5, in PyMC's form), exact up to 256 points, within 1 % of m beyond.

    Returns
    -------
    Kernel
        For `SVGD` and `ASVGD`; equal for equal arguments.

    Raises
    ------
    TypeError, ValueError
        If `bandwidth` is something else, or not positive.

    Examples
    --------
    >>> rbf(0.5) == rbf(bandwidth=0.5)
    True
    """
    return Gaussian(as_bandwidth(bandwidth))


def imq(bandwidth: float | Callable[[Array], Any] | None = None, exponent: float = -0.5) -> Kernel:
    r"""The inverse multiquadric kernel :math:`k(x, y) = (1 + \|x - y\|^2 / 2h)^\beta`.

    Its tails are heavy: far points still act on each other, and its discrepancy tells whether
    points converge to the target, which that of `rbf` does not (Gorham and Mackey 2017).

    Parameters
    ----------
    bandwidth : float or callable, optional
        h, as for `rbf`.
    exponent : float
        :math:`\beta`, between -1 and 0, both excluded.

    Returns
    -------
    Kernel
        As for `rbf`.

    Raises
    ------
    TypeError, ValueError
        As for `rbf`; also if `exponent` is outside of its range.

    Examples
    --------
    >>> imq() == imq(exponent=-0.5)
    True
    """
    exponent = as_number(exponent, "exponent", -1)
    if not -1 < exponent < 0:
        raise ValueError(f"exponent must be between -1 and 0, both excluded, got {exponent}")
    return InverseMultiquadric(as_bandwidth(bandwidth), exponent)


def as_kernel(kernel: Any, ndim: int) -> Kernel:
    """Bring what a user may give as `kernel` to a `Kernel`.

    That is `rbf` or `imq`, called or bare, or a function of two points of shape (ndim,).

    Raises
    ------
    TypeError
        If it is anything else.
    ValueError
        If the function does not give a real number.
    """
    if kernel is rbf or kernel is imq:
        return kernel()
    if isinstance(kernel, Kernel):
        return kernel
    if not callable(kernel):
        raise TypeError(
            "kernel must be rbf, imq, one of these called, as in rbf(0.5), or a function k(x, y) "
            f"of two points, got {kernel!r}"
        )
    point = jax.ShapeDtypeStruct((ndim,), jnp.result_type(float))
    value = jax.eval_shape(kernel, point, point)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"kernel must give one real number for two points of shape ({ndim},), got {value}"
        )
    return Pairwise(Compared.of(kernel))


def _sums(weights: Array, columns: Array) -> Array:
    return jnp.matmul(weights, columns, precision="highest")

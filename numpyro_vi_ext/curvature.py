"""Second derivatives of a function of z, and the coordinates in which they are about 1."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from numpyro_vi_ext.blocks import in_blocks
from numpyro_vi_ext.programs import operations

Array = jax.Array


class Curvature(NamedTuple):
    """A positive definite matrix, or only a diagonal, with a root of its inverse.

    Parameters
    ----------
    precision : array of JAX or NumPy, shape (d, d) or (d,)
    root : the same
        B with ``B @ B.T`` the inverse of the precision.
    """

    precision: Any
    root: Any

    @property
    def diagonal(self) -> Array:
        """Of the precision, shape (d,)."""
        return self.precision if self.precision.ndim == 1 else jnp.diag(self.precision)

    def unwhiten(self, u: Array) -> Array:
        """From coordinates in which the precision is the identity."""
        return self.root * u if self.root.ndim == 1 else self.root @ u

    def solve(self, x: Array) -> Array:
        """The inverse of the precision times a vector."""
        return self.root * self.root * x if self.root.ndim == 1 else self.root @ (self.root.T @ x)


def curvature(fn: Callable[[Array], Array], z: Array) -> Array:
    """Hessian of a function at z, shape (d, d)."""
    return in_blocks(hessian_product(fn, z), jnp.eye(z.size, dtype=z.dtype))


def diagonal_curvature(
    fn: Callable[[Array], Array], z: Array, key: Array, probes: int = 0
) -> Array:
    """Diagonal of the Hessian of a function at z, shape (d,).

    With a number of `probes` it is an estimate: the mean of ``v * (H @ v)`` over so many vectors v
    of random signs (Hutchinson 1990; Bekas, Kokiopoulou and Saad 2007).
    """
    product, d = hessian_product(fn, z), z.size
    if not probes:
        return in_blocks(lambda i: product(jax.nn.one_hot(i, d, dtype=z.dtype))[i], jnp.arange(d))
    signs = jax.random.rademacher(key, (probes, d), z.dtype)
    return jnp.mean(in_blocks(lambda v: v * product(v), signs), axis=0)


def hessian_product(fn: Callable[[Array], Array], z: Array) -> Callable[[Array], Array]:
    """``v -> H(z) @ v``, forward over reverse where the function allows that."""
    gradient = jax.grad(fn)

    def forward(v: Array) -> Array:
        return jax.jvp(gradient, (z,), (v,))[1]

    def reverse(v: Array) -> Array:
        return jax.vjp(gradient, z)[1](v)[0]

    return forward if _can_be_run(forward, z) else reverse


def _can_be_run(forward: Callable[[Array], Array], z: Array) -> bool:
    """False if something in it has a rule for reverse mode only, such as an ODE solver.

    JAX says so when the function is run or lowered; while it is recorded, the derivative that is
    missing is an operation of its own.
    """
    try:
        found = operations(jax.make_jaxpr(forward)(z))
    except TypeError:
        return False
    return all(operation.primitive.name != "custom_lin" for operation in found)


def whiten(hessian: Array) -> Curvature:
    """Absolute values of the eigenvalues, kept off zero (Dauphin et al. 2014), and a root.

    Rows and columns are first scaled to a unit diagonal, so that only conditioning beyond the
    scales of the coordinates costs digits.
    """
    if hessian.ndim == 1:
        precision = _positive(hessian)
        return Curvature(precision, jax.lax.rsqrt(precision))
    d = hessian.shape[0]
    scale = jax.lax.rsqrt(_positive(jnp.diag(hessian)))
    scaled = scale[:, None] * 0.5 * (hessian + hessian.T) * scale
    scaled = jnp.where(jnp.all(jnp.isfinite(scaled)), scaled, jnp.eye(d, dtype=hessian.dtype))
    values, vectors = jnp.linalg.eigh(scaled)
    values = jnp.abs(values)
    values = jnp.maximum(values, 10 * jnp.finfo(values.dtype).eps * jnp.max(values, initial=1.0))
    precision = (vectors * values) @ vectors.T / scale[:, None] / scale
    return Curvature(precision, scale[:, None] * vectors * jax.lax.rsqrt(values))


def _positive(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x) & (x != 0), jnp.abs(x), 1.0)

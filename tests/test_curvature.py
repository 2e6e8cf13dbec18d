"""Second derivatives, and the coordinates in which they are about 1, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_vi_ext.curvature import (
    Curvature,
    curvature,
    diagonal_curvature,
    hessian_product,
    whiten,
)

EPS = np.finfo(np.float32).eps
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
A = RNG.normal(size=(5, 5))
A = A @ A.T / 5 + np.diag([1.0, 2, 3, 4, 5])
Z = RNG.normal(size=5)


def quartic(z):
    """Its Hessian is A + diag(z**2)."""
    return 0.5 * z @ jnp.array(A, z.dtype) @ z + jnp.sum(z**4) / 12


EXACT = A + np.diag(Z**2)


def test_the_hessian():
    found = curvature(quartic, jnp.array(Z, jnp.float32))
    np.testing.assert_allclose(found, EXACT, atol=10 * EPS * np.abs(EXACT).max())


def test_the_diagonal_is_exact_without_probes():
    found = diagonal_curvature(quartic, jnp.array(Z, jnp.float32), KEY)
    np.testing.assert_allclose(found, np.diag(EXACT), rtol=20 * EPS)


def chain(z, link):
    """Hessian: z**2 plus 2 * link on the diagonal, -link beside it."""
    return jnp.sum(z**4) / 12 + 0.5 * link * (jnp.sum(jnp.diff(z) ** 2) + z[0] ** 2 + z[-1] ** 2)


def test_the_diagonal_from_probes_is_within_its_monte_carlo_error():
    """An entry is the mean over 64 probes of H_ii plus two signs times a link: sd link * sqrt(2)/8.

    Six of these are passed by chance in less than one of 10**5 runs of 1,500 entries.
    """
    z = np.linspace(-1, 1, 1500, dtype=np.float32)
    found = diagonal_curvature(lambda z: chain(z, 0.5), jnp.array(z), KEY, probes=64)
    error = np.asarray(found) - (z**2 + 1)
    assert np.abs(error).max() < 6 * 0.5 * np.sqrt(2 / 64)
    assert error.std() == pytest.approx(0.5 * np.sqrt(2 / 64), rel=0.1)  # so the probes are random
    without = diagonal_curvature(lambda z: chain(z, 0.0), jnp.array(z), KEY, probes=64)
    np.testing.assert_allclose(without, z**2, atol=20 * EPS)


def test_a_function_with_reverse_mode_only():
    """Its backward pass has no forward rule, as that of an ODE solver: reverse over reverse."""

    @jax.custom_vjp
    def cube(z):  # the rule of its derivative is reverse only, too
        return z**3

    @jax.custom_vjp
    def slope(z):
        return 3 * z**2

    slope.defvjp(lambda z: (3 * z**2, z), lambda z, g: (6 * z * g,))
    cube.defvjp(lambda z: (z**3, z), lambda z, g: (slope(z) * g,))
    z = jnp.array([0.5, -1.0, 2.0])
    fn = lambda z: jnp.sum(cube(z)) + z[0] * z[1]  # noqa: E731
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(jax.grad(fn), (z,), (z,))
    exact = np.diag(6 * np.asarray(z)) + np.eye(3)[[1, 0, 2]] * [[1], [1], [0]]
    for f in (fn, jax.jit(fn), lambda z: jax.lax.map(fn, z[None])[0]):  # at any depth
        compiled = jax.jit(lambda z, f=f: curvature(f, z))
        np.testing.assert_allclose(compiled(z), exact, rtol=10 * EPS)
    np.testing.assert_allclose(diagonal_curvature(fn, z, KEY), np.diag(exact), rtol=10 * EPS)
    np.testing.assert_allclose(hessian_product(fn, z)(z), exact @ z, rtol=10 * EPS)


def test_no_dimensions():
    empty = jnp.zeros(0)
    dense = whiten(curvature(lambda z: jnp.sum(z**2), empty))
    assert dense.precision.shape == dense.root.shape == (0, 0)


# --- whiten -------------------------------------------------------------------------------------


def check(found, expected):
    """That precision and root are as expected, up to the conditioning at a unit diagonal."""
    scale = 1 / np.sqrt(np.diag(expected))
    scaled = scale[:, None] * expected * scale
    condition = np.linalg.cond(scaled)
    precision = scale[:, None] * np.asarray(found.precision, float) * scale
    np.testing.assert_allclose(precision, scaled, atol=50 * EPS)
    root = np.asarray(found.root, float) / scale[:, None]
    inverse = np.linalg.inv(scaled)
    np.testing.assert_allclose(root @ root.T, inverse, atol=50 * EPS * condition * inverse.max())
    assert np.linalg.eigvalsh(precision).min() > 0


def test_of_a_positive_definite_matrix():
    found = whiten(jnp.array(A, jnp.float32))
    check(found, A)
    x = jnp.array(Z, jnp.float32)
    np.testing.assert_allclose(found.solve(x), np.linalg.solve(A, Z), atol=100 * EPS)
    np.testing.assert_allclose(found.diagonal, np.diag(A), rtol=50 * EPS)
    white = found.unwhiten(x)
    np.testing.assert_allclose(white @ A @ white, Z @ Z, rtol=100 * EPS)


def test_scales_of_coordinates_cost_no_digits():
    scales = 10.0 ** np.array([-4, -2, 0, 2, 4])
    matrix = A / np.outer(scales, scales)
    check(whiten(jnp.array(matrix, jnp.float32)), matrix)


def test_of_an_indefinite_matrix_absolute_eigenvalues_are_taken():
    """Of the matrix with its diagonal scaled to 1."""
    matrix = np.array([[1.0, 2.0], [2.0, 1.0]])  # eigenvalues 3 and -1
    exact = np.array([[2.0, 1.0], [1.0, 2.0]])  # 3 and 1
    found = whiten(jnp.array(matrix, jnp.float32))
    np.testing.assert_allclose(found.precision, exact, rtol=20 * EPS)
    np.testing.assert_allclose(found.root @ found.root.T, np.linalg.inv(exact), rtol=20 * EPS)
    negative = whiten(jnp.array(-A, jnp.float32))
    check(negative, A)


def test_of_a_singular_matrix():
    """Directions without curvature get a little, so that all stays finite."""
    found = whiten(jnp.ones((3, 3)))
    values = np.linalg.eigvalsh(np.asarray(found.precision, float))
    assert values[-1] == pytest.approx(3, rel=1e-5)
    assert np.isfinite(found.root).all()
    longest = np.linalg.svd(np.asarray(found.root, float))[1].max()
    assert longest == pytest.approx((10 * EPS * 3) ** -0.5, rel=0.01)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_nothing_is_known(value):
    """No number: 1, as for a diagonal without curvature; a flat matrix is one that is singular."""
    dense = whiten(jnp.full((3, 3), value, jnp.float32))
    exact = np.eye(3) * (10 * EPS if value == 0 else 1)
    np.testing.assert_allclose(dense.precision, exact, atol=1e-3 * exact[0, 0])
    np.testing.assert_allclose(dense.root @ dense.root.T @ exact, np.eye(3), atol=1e-3)
    diagonal = whiten(jnp.array([value, 4.0, -9.0]))
    np.testing.assert_allclose(diagonal.precision, [1, 4, 9])
    np.testing.assert_allclose(diagonal.root, [1, 1 / 2, 1 / 3], rtol=4 * EPS)


def test_one_nan_leaves_the_diagonal():
    matrix = np.diag([4.0, 9.0, 16.0])
    matrix[0, 1] = matrix[1, 0] = np.nan
    found = whiten(jnp.array(matrix, jnp.float32))
    np.testing.assert_allclose(found.precision, np.diag([4, 9, 16]), rtol=10 * EPS)


def test_a_diagonal():
    found = whiten(jnp.array([4.0, 0.25]))
    x = jnp.array([1.0, 3.0])
    np.testing.assert_allclose(found.solve(x), [0.25, 12], rtol=4 * EPS)
    np.testing.assert_allclose(found.unwhiten(x), [0.5, 6], rtol=4 * EPS)
    np.testing.assert_allclose(found.diagonal, [4, 0.25], rtol=4 * EPS)


def test_it_is_a_pytree():
    found = Curvature(jnp.ones(2), jnp.ones(2))
    assert len(jax.tree.leaves(found)) == 2

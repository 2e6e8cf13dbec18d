"""Kernels: direction and discrepancy against double loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import numpyro_vi_ext as vi
from numpyro_vi_ext import blocks
from numpyro_vi_ext.kernels import as_kernel

H = 0.7


def points(n, d, seed=0, mean=0.0):
    rng = np.random.default_rng(seed)
    x = (mean + rng.normal(size=(n, d))).astype(np.float32)
    return x, rng.normal(size=(n, d)).astype(np.float32)


# The same functions for NumPy, of complex arguments too, and for JAX.


def np_rbf(x, y, h=H):
    return np.exp(-((x - y) ** 2).sum() / (2 * h))


def np_imq(x, y, h=H, exponent=-0.5):
    return (1 + ((x - y) ** 2).sum() / (2 * h)) ** exponent


def np_tilted(x, y):
    """Not a function of the difference, nor symmetric under a shift."""
    return np.exp(-0.3 * ((x - y) ** 2).sum()) * (1 + x[0] * y[0])


def tilted(x, y):
    return jnp.exp(-0.3 * jnp.sum((x - y) ** 2)) * (1 + x[0] * y[0])


def np_polynomial(x, y):
    return (1 + (x * y).sum()) ** 2


def polynomial(x, y):
    return (1 + x @ y) ** 2


KERNELS = {
    "rbf": (vi.rbf(H), np_rbf),
    "imq": (vi.imq(H), np_imq),
    "steep imq": (vi.imq(H, -0.9), lambda x, y: np_imq(x, y, exponent=-0.9)),
    "tilted": (tilted, np_tilted),
    "polynomial": (polynomial, np_polynomial),
}
ALL = pytest.mark.parametrize(("kernel", "k"), KERNELS.values(), ids=KERNELS)


def by_complex_step(f, x):
    """Gradient in double precision without differences of near numbers."""
    steps = 1e-20j * np.eye(len(x))
    return np.array([np.imag(f(x + step)) for step in steps]) / 1e-20


def loop_direction(k, x, score):
    """A mean over j for each i, one pair at a time."""
    x, score = np.asarray(x, float), np.asarray(score, float)
    phi = np.zeros_like(x)
    for i in range(len(x)):
        for j in range(len(x)):
            grad = by_complex_step(lambda z, y=x[i]: k(z, y), x[j])
            phi[i] += (k(x[j], x[i]) * score[j] + grad) / len(x)
    return phi


def loop_discrepancy(k, x, score):
    """The V-statistic of the Stein kernel; mixed derivatives by differences of gradients."""
    x, score = np.asarray(x, float), np.asarray(score, float)
    n, d = x.shape
    eps, total = 1e-5, 0.0
    for i in range(n):
        for j in range(n):
            by_x = by_complex_step(lambda z, y=x[j]: k(z, y), x[i])
            by_y = by_complex_step(lambda z, y=x[i]: k(y, z), x[j])
            trace = 0.0
            for axis in range(d):
                step = eps * np.eye(d)[axis]
                up, down = (
                    by_complex_step(lambda z, y=x[j] + s * step: k(z, y), x[i])[axis]
                    for s in (1, -1)
                )
                trace += (up - down) / (2 * eps)
            total += k(x[i], x[j]) * (score[i] @ score[j]) + score[i] @ by_y + score[j] @ by_x
            total += trace
    return total / n**2


def direction(kernel, x, score):
    return both(kernel, x, score)[0]


def both(kernel, x, score):
    kernel, x, score = as_kernel(kernel, x.shape[1]), jnp.asarray(x), jnp.asarray(score)

    @jax.jit
    def compute(x, score):
        h, _ = kernel.bandwidth.choose(x, kernel.bandwidth.init(x))
        return kernel.direction(x, score, h), kernel.discrepancy(x, score, h)

    return compute(x, score)


@ALL
@pytest.mark.parametrize("d", [1, 5])
def test_direction_and_discrepancy(kernel, k, d):
    x, score = points(9, d)
    phi, ksd = both(kernel, x, score)
    expected = loop_direction(k, x, score)
    np.testing.assert_allclose(phi, expected, rtol=2e-5, atol=2e-6 * np.abs(expected).max())
    np.testing.assert_allclose(ksd, loop_discrepancy(k, x, score), rtol=1e-4)


def test_pymcs_formula():
    """phi = (K s + dK) / n with dK = (X rowsum(K) - K X) / h, the bandwidth from the median."""
    x, score = points(40, 3)
    z, s = x.astype(float), score.astype(float)
    squares = ((z[:, None] - z) ** 2).sum(-1)
    h = 0.5 * np.median(squares) / np.log(len(z) + 1)
    K = np.exp(-squares / (2 * h))
    dK = (z * K.sum(1, keepdims=True) - K @ z) / h
    np.testing.assert_allclose(direction(vi.rbf, x, score), (K @ s + dK) / len(z), atol=2e-6)


@ALL
def test_the_discrepancy_is_that_of_the_direction(kernel, k):
    """It is the mean of s phi + div phi, the first point of each derivative being held."""
    x, score = points(8, 2)
    del k
    made = as_kernel(kernel, 2)

    def at(z):  # phi at any place, weighted by n + 1 for the n points there and itself
        ends = jnp.concatenate([x, z[None]]), jnp.concatenate([score, jnp.zeros((1, 2))])
        own = made.direction(z[None], jnp.zeros((1, 2)), jnp.float32(H))[0]
        return ((len(x) + 1) * made.direction(*ends, jnp.float32(H))[-1] - own) / len(x)

    def stein(z, s):
        return s @ at(z) + jnp.trace(jax.jacfwd(at)(z))

    expected = jnp.mean(jax.jit(jax.vmap(stein))(x, score))
    np.testing.assert_allclose(both(kernel, x, score)[1], expected, rtol=1e-3)


@pytest.mark.parametrize("kernel", [vi.rbf, vi.imq(H)])
@pytest.mark.parametrize("d", [2, 5])
def test_far_from_the_origin_nothing_cancels(kernel, d):
    """The points there, rounded to single precision, and the same ones moved back exactly."""
    x, score = points(30, d, mean=1e4)
    moved = (x.astype(float) - 1e4).astype(np.float32)
    for far, near in zip(both(kernel, x, score), both(kernel, moved, score), strict=True):
        np.testing.assert_allclose(far, near, rtol=2e-3, atol=1e-4)


@pytest.mark.slow  # compared at the last digits, which are those of optimised code
@pytest.mark.parametrize("kernel", [vi.rbf(H), vi.imq(H)])
@pytest.mark.parametrize("d", [2, 5])
def test_far_from_the_origin_by_a_double_loop(kernel, d):
    k = np_rbf if kernel == vi.rbf(H) else np_imq
    x, score = points(9, d, mean=1e4)
    phi, ksd = both(kernel, x, score)
    np.testing.assert_allclose(phi, loop_direction(k, x, score), atol=2e-5)
    centred = x.astype(float) - 1e4
    np.testing.assert_allclose(ksd, loop_discrepancy(k, centred, score), rtol=2e-4)


@pytest.mark.parametrize("kernel", [vi.rbf, vi.imq, tilted])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 3), (2, 2), (64, 1), (64, 3)])
def test_equal_points_only_follow_the_score(kernel, n, d):
    """They do not push each other, however near; the kernel at no distance is 1."""
    x, score = np.full((n, d), 0.5, np.float32), points(n, d)[1]
    factor, push = (1 + 0.25, 0.5) if kernel is tilted else (1, 0)
    expected = factor * np.tile(score.mean(0), (n, 1))
    expected[:, 0] += push  # of the factor 1 + x y
    phi, ksd = both(kernel, x, score)
    np.testing.assert_allclose(phi, expected, atol=1e-5)
    assert np.isfinite(ksd)


def test_discrepancy_of_one_point():
    """|s|^2 k + trace of the mixed derivatives, d / h for rbf and d / 2h for imq."""
    x, score = points(1, 3)
    square = (score**2).sum()
    np.testing.assert_allclose(both(vi.rbf(H), x, score)[1], square + 3 / H, rtol=1e-6)
    np.testing.assert_allclose(both(vi.imq(H), x, score)[1], square + 3 / (2 * H), rtol=1e-6)
    np.testing.assert_allclose(both(vi.rbf, x, score)[1], square + 3, rtol=1e-6)  # h is 1


def test_the_discrepancy_tells_the_target_from_another_one():
    """Of draws of N(0, I): small for its score, not for one that is moved by a half."""
    x = points(400, 2)[0]
    for kernel in (vi.rbf, vi.imq):
        right, wrong = (both(kernel, x, -(x - shift))[1] for shift in (0, 0.5))
        assert 0 < right < 0.03
        assert wrong > 3 * right


@ALL
def test_blocks_change_nothing(monkeypatch, kernel, k):
    x, score = points(23, 2)
    expected = both(kernel, x, score)
    for numbers in (1, 150) if k is np_rbf else (150,):
        monkeypatch.setattr(blocks, "BLOCK_NUMBERS", numbers)
        for found, whole in zip(both(kernel, x, score), expected, strict=True):
            np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-6)


def test_in_double_precision():
    """What is lost is the rounding of doubles: fixed bandwidths and functions."""
    with jax.enable_x64(True):
        for kernel, k in KERNELS.values():
            x, score = (a.astype(float) for a in points(6, 3))
            phi, ksd = both(kernel, x, score)
            assert phi.dtype == ksd.dtype == np.float64
            np.testing.assert_allclose(phi, loop_direction(k, x, score), rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(ksd, loop_discrepancy(k, x, score), rtol=1e-7)


def test_equality():
    """It is part of what compiled steps are found by."""
    assert vi.rbf() == vi.rbf(None) == as_kernel(vi.rbf, 2)
    assert vi.rbf(1) == vi.rbf(np.float32(1)) != vi.rbf(2)
    assert vi.imq(1) == vi.imq(1.0, -0.5) != vi.imq(1, -0.4)
    assert vi.imq() != vi.rbf()
    assert as_kernel(tilted, 2) == as_kernel(tilted, 3) != as_kernel(polynomial, 2)
    assert len({vi.rbf(), vi.rbf(), vi.imq(), vi.rbf(1.0), vi.rbf(1.0)}) == 3


@pytest.mark.parametrize(
    ("kernel", "error", "text"),
    [
        ("rbf", TypeError, r"kernel must be rbf, imq, one of these called, .*, got 'rbf'"),
        (None, TypeError, "kernel must be rbf, imq, one of these called, .*, got None"),
        (1.0, TypeError, r"or a function k\(x, y\) of two points, got 1.0"),
        (lambda x, y: x - y, ValueError, r"one real number for two points of shape \(2,\), got"),
        (lambda x, y: jnp.ones(1), ValueError, r"got ShapeDtypeStruct\(shape=\(1,\)"),
        (lambda x, y: 1, ValueError, "one real number .* dtype=int32"),
        (lambda x, y: 1j, ValueError, "one real number .* dtype=complex"),
        (lambda x, y: None, ValueError, "one real number .* got None"),
        (lambda x, y: (1.0, 2.0), ValueError, r"one real number .* got \("),
    ],
)
def test_bad_kernels(kernel, error, text):
    with pytest.raises(error, match=text):
        as_kernel(kernel, 2)


@pytest.mark.parametrize(
    ("exponent", "error", "text"),
    [
        (0, ValueError, "exponent must be between -1 and 0, both excluded, got 0"),
        (-1, ValueError, "exponent must be between -1 and 0, both excluded, got -1"),
        (0.5, ValueError, "exponent must be between -1 and 0, both excluded, got 0.5"),
        (-2, ValueError, "exponent must be at least -1 and finite, got -2"),
        (np.nan, ValueError, "exponent must be at least -1 and finite, got nan"),
        ("half", TypeError, "exponent must be a number, got 'half' of type str"),
    ],
)
def test_bad_exponents(exponent, error, text):
    with pytest.raises(error, match=text):
        vi.imq(exponent=exponent)

"""Bandwidths of kernels: the median of all squared distances against NumPy's, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_vi_ext as vi
from numpyro_vi_ext import bandwidth, blocks
from numpyro_vi_ext.bandwidth import Constant, Given, LastMedian, MedianHeuristic, as_bandwidth

HEURISTIC = MedianHeuristic()
CHOOSE = jax.jit(HEURISTIC.choose)  # one of its own: the others must not trace it differently


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def exact_median(x):
    """Of all n^2 entries, the zeros of i = j included, in double precision."""
    x = np.asarray(x, float)
    n = len(x)
    first, second = np.triu_indices(n, 1)
    squares = sum((x[first, k] - x[second, k]) ** 2 for k in range(x.shape[1]))
    # Sorted, the n zeros come first, then each of these twice.
    middle = [(n * n - 1) // 2 - n, n * n // 2 - n]
    pairs = [m // 2 for m in middle if m >= 0]
    found = np.partition(squares, pairs)[pairs] if pairs else np.zeros(0)
    return (found.sum() + 0.0) / 2


def median_of(h, n):
    return 2 * np.log(n + 1) * float(h)


def chosen(x):
    """The median that belongs to the bandwidth at the first step."""
    x = jnp.asarray(x, jnp.float32)
    return median_of(CHOOSE(x, HEURISTIC.init(x))[0], len(x))


def test_the_reference_is_numpys_median():
    for shape in ((2, 1), (3, 2), (4, 3), (9, 1), (40, 5), (41, 2)):
        x = normal(shape).astype(float)
        squares = ((x[:, None] - x) ** 2).sum(-1)
        np.testing.assert_allclose(exact_median(x), np.median(squares), rtol=1e-12)


# --- exact for few points -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 10, 100, 256])
def test_up_to_256_points_the_median_is_exact(n):
    """To the rounding of a squared distance: for d > 2 that of norms."""
    for d in (2, 3) if n % 3 else (1, 7):
        for seed in range(2 if n > 10 else 10):
            x = normal((n, d), seed=seed)
            rounding = 1e-6 if d <= 2 else 1e-5
            np.testing.assert_allclose(chosen(x), exact_median(x), rtol=rounding, atol=1e-12)


@pytest.mark.parametrize("where", [1e3, -1e4])
def test_where_the_points_are_does_not_matter(where):
    """Single precision makes a grid of 0.001 there, on which distances of about 1 are."""
    for n, d in ((100, 1), (600, 4)):
        x = normal((n, d)) + np.float32(where)
        np.testing.assert_allclose(chosen(x), exact_median(x), rtol=0.01)


@pytest.mark.parametrize("n", [101, 600])
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3, 1e12])
def test_scale_does_not_matter(n, scale):
    x = normal((n, 3))
    expected = scale**2 * exact_median(x)
    rtol = 1e-5 if n < 257 else 0.01
    np.testing.assert_allclose(chosen(x * np.float32(scale)), expected, rtol=rtol)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("n", [10, 100, 1000])
def test_two_equal_clusters_far_apart(n, d):
    """Half of the pairs are within a cluster: the middle two are on the two sides of the gap."""
    x = normal((n, d))
    x[: n // 2] += 100
    np.testing.assert_allclose(chosen(x), exact_median(x), rtol=1e-5 if n <= 256 else 0.01)
    far = 100.0**2 * d
    assert 0.25 * far < chosen(x) < 0.75 * far


@pytest.mark.parametrize(("n", "d"), [(100, 1), (1000, 1), (101, 2)])
def test_heavy_tails(n, d):
    """Squared distances over ten orders of magnitude, and single points far out."""
    rtol = 1e-4 if n <= 256 else 0.01
    cauchy = np.random.default_rng(0).standard_cauchy((n, d)).astype(np.float32)
    np.testing.assert_allclose(chosen(cauchy), exact_median(cauchy), rtol=rtol)
    lone = normal((n, d))
    lone[0] += 1e5
    np.testing.assert_allclose(chosen(lone), exact_median(lone), rtol=0.01)


# --- where the median is zero -------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 3), (2, 1), (64, 1), (64, 3), (512, 2)])
def test_equal_points_have_a_bandwidth_of_one(n, d):
    x = jnp.full((n, d), 0.5)
    h, _ = CHOOSE(x, HEURISTIC.init(x))
    assert float(h) == 1.0


def test_without_dimensions():
    x = jnp.zeros((4, 0))
    assert float(CHOOSE(x, HEURISTIC.init(x))[0]) == 1.0


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("n", [8, 100, 400])
def test_where_most_points_coincide_the_mean_stands_in(n, d):
    """Three quarters at one place: of all pairs 9/16 are at no distance."""
    x = normal((n, d))
    x[: 3 * n // 4] = 0.5
    squares = ((x[:, None].astype(float) - x) ** 2).sum(-1)
    assert np.median(squares) == 0
    np.testing.assert_allclose(chosen(x), squares.mean(), rtol=1e-5)


@pytest.mark.parametrize("n", [100, 400])
def test_points_that_coincided_may_part(n):
    """The median that is remembered is zero then, which is no guess."""
    x = normal((n, 2))
    together = x.copy()
    together[: 3 * n // 4] = 0.5
    memory = HEURISTIC.init(jnp.asarray(together))
    found = []
    for points in (together, together, x, 1.01 * x, x):
        h, memory = CHOOSE(jnp.asarray(points), memory)
        found.append(median_of(h, n))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[-1], exact_median(x), rtol=0.01)


# --- near for many points, at every step --------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, 10])
def test_within_one_per_cent_whatever_the_points_do(d):
    """They grow, shrink, jump in scale by up to 10^4, drift, split and come together."""
    n = 257
    rng = np.random.default_rng(d)
    x = normal((n, d))
    path = [x * s for s in (1.0, 1.001, 1.002, 1.01, 1.1, 1.5, 3.0, 30.0, 300.0)]
    path += [x * s for s in (1e-2, 1e-2, 100.0, 1.0, 0.999, 0.997)]
    path += [x + np.float32(0.003 * k) for k in range(6)]
    for _ in range(30):  # a walk with steps of any size
        path.append(path[-1] + rng.normal(size=(n, d)) * 10 ** rng.uniform(-5, 0.5))
    split = x.copy()
    split[: n // 2] += 30
    path += [split, x, split * 1.0001, split]
    memory = HEURISTIC.init(jnp.asarray(path[0], jnp.float32))
    for points in path:
        points = np.asarray(points, np.float32)
        h, memory = CHOOSE(jnp.asarray(points), memory)
        np.testing.assert_allclose(median_of(h, n), exact_median(points), rtol=0.01)


def test_it_is_looked_for_only_when_points_have_moved():
    """In all, a point moves by 1/1000 of the root of the median in 20 steps: twice at most."""
    x = normal((300, 3))
    memory = HEURISTIC.init(jnp.asarray(x))
    looked = []
    for k in range(20):
        points = x.copy()
        points[0] += 1e-3 * k / 20
        before = memory.points
        _, memory = CHOOSE(jnp.asarray(points), memory)
        looked.append(not np.array_equal(before, memory.points))
    assert looked[0]
    assert 1 <= sum(looked) <= 2
    few = jnp.asarray(x[:100])  # these are cheap: always
    found = [CHOOSE(few * s, HEURISTIC.init(few))[1].points for s in (1.0, 1.0001)]
    assert not np.array_equal(*found)


def target(d):
    def model():
        scale = jnp.linspace(0.5, 2.0, d)
        numpyro.sample("x", dist.Normal(jnp.arange(float(d)), scale).to_event(1))

    return model


def fits(n, d, steps):
    """Particles before each step of a fast fit from afar, and of a slow one that goes on."""
    inference = vi.SVGD(target(d), n, random_seed=d, start={"x": np.arange(d) + 6.0})
    for optimizer in (vi.adam(0.1), vi.sgd(3e-4)):
        tracker = vi.Tracker(x=lambda q: q.histogram)
        start = inference.approx.histogram
        inference.fit(steps, obj_optimizer=optimizer, callbacks=[tracker], progressbar=False)
        yield [start, *tracker["x"]], inference._run.state.memory.bandwidth


@pytest.mark.parametrize(
    ("n", "d"),
    [
        (257, 3),
        pytest.param(1000, 2, marks=pytest.mark.slow),
        pytest.param(257, 1, marks=pytest.mark.slow),
        pytest.param(1000, 10, marks=pytest.mark.slow),
        pytest.param(1000, 1, marks=pytest.mark.slow),
        pytest.param(1000, 3, marks=pytest.mark.slow),
        pytest.param(257, 2, marks=pytest.mark.slow),
        pytest.param(257, 10, marks=pytest.mark.slow),
    ],
)
def test_within_one_per_cent_at_every_step_of_a_fit(n, d):
    looks = []
    for path, memory_of_fit in fits(n, d, steps=60):
        memory, found = HEURISTIC.init(jnp.asarray(path[0])), []
        for points in path[:-1]:
            before = memory.points
            h, memory = CHOOSE(jnp.asarray(points), memory)
            np.testing.assert_allclose(median_of(h, n), exact_median(points), rtol=0.01)
            found.append(not np.array_equal(before, memory.points))
        looks.append(sum(found))
        # The fit has gone the same way.
        np.testing.assert_allclose(memory.median, memory_of_fit.median, rtol=1e-4)
        np.testing.assert_allclose(memory.points, memory_of_fit.points, atol=1e-4)
    fast, slow = looks
    assert fast >= 40  # of 60
    assert 1 <= slow < 50


def test_many_points_count_in_other_types(monkeypatch):
    """Beyond 46,000 points in floating point, beyond 65,535 two sums: here for a hundred."""
    x = normal((100, 2))
    expected = chosen(x)
    for name in ("_INT_POINTS", "_PACKED_POINTS"):
        monkeypatch.setattr(bandwidth, name, 50)
        points = jnp.asarray(x)
        h, _ = jax.jit(lambda x: HEURISTIC.choose(x, HEURISTIC.init(x)))(points)
        np.testing.assert_allclose(median_of(h, 100), expected, rtol=1e-6)


@pytest.mark.parametrize("n", [100, 300])
def test_blocks_change_nothing(monkeypatch, n):
    x = jnp.asarray(normal((n, 3)))
    expected = chosen(x)
    monkeypatch.setattr(blocks, "BLOCK_NUMBERS", 7 * n)
    h, _ = jax.jit(lambda x: HEURISTIC.choose(x, HEURISTIC.init(x)))(x)
    np.testing.assert_allclose(median_of(h, n), expected, rtol=1e-5 if n < 257 else 1e-3)


def test_no_gradient_goes_through_it():
    x = jnp.asarray(normal((10, 2)))
    for choice in (HEURISTIC, Given(lambda x: jnp.var(x))):
        memory = choice.init(x)
        tangents = jnp.ones_like(x), jax.tree.map(jnp.zeros_like, memory)
        _, (tangent, _) = jax.jvp(choice.choose, (x, memory), tangents)
        assert tangent == 0


# --- given ones ---------------------------------------------------------------------------------


def test_constant_and_computed_bandwidths():
    x = jnp.asarray(normal((6, 2)))
    for given, expected in (
        (0.3, 0.3),
        (2, 2.0),
        (np.float32(0.5), 0.5),
        (lambda x: jnp.var(x), np.var(x)),
        (lambda x: 3, 3.0),
        (lambda x: 0.1 * len(x), 0.6),
    ):
        choice = as_bandwidth(given)
        h, memory = choice.choose(x, choice.init(x))
        np.testing.assert_allclose(h, expected, rtol=1e-6)
        assert h.dtype == x.dtype
        assert h.shape == ()
        assert memory == ()


def test_equality():
    """It is part of what compiled steps are found by."""
    assert as_bandwidth(None) == as_bandwidth(None) == MedianHeuristic()
    assert as_bandwidth(2) == as_bandwidth(np.float64(2)) == Given(Constant(2.0))
    assert as_bandwidth(2) != as_bandwidth(3)
    assert as_bandwidth(jnp.var) == as_bandwidth(jnp.var) != as_bandwidth(jnp.mean)
    assert hash(as_bandwidth(0.1)) == hash(as_bandwidth(0.1))
    assert isinstance(MedianHeuristic().init(jnp.zeros((3, 1))), LastMedian)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (0, ValueError, "bandwidth must be greater than 0 and finite, got 0"),
        (-0.5, ValueError, "bandwidth must be greater than 0 and finite, got -0.5"),
        (np.nan, ValueError, "bandwidth must be greater than 0 and finite, got nan"),
        (np.inf, ValueError, "bandwidth must be greater than 0 and finite, got inf"),
        ("median", TypeError, "bandwidth must be a number, got 'median' of type str"),
        (True, TypeError, "bandwidth must be a number, got True of type bool"),
        ([1.0], TypeError, "bandwidth must be a number, got .* of type list"),
    ],
)
def test_bad_input(given, error, text):
    for kernel in (vi.rbf, vi.imq):
        with pytest.raises(error, match=text):
            kernel(given)


def test_a_function_must_give_one_number():
    kernel = vi.rbf(lambda x: jnp.var(x, axis=0))
    text = r"bandwidth must give one real number for points of shape \(20, 3\), got Shape.*\(3,\)"
    with pytest.raises(ValueError, match=text):
        vi.SVGD(target(3), 20, kernel=kernel)


# -- found by attack


@pytest.mark.parametrize("n", [3, 4, 7, 12])
def test_ties(n):
    """On a grid many distances are equal; compiled code must round equal points alike."""
    x = jnp.arange(1.0, n + 1)[:, None] + 1e4
    expected = np.median((np.asarray(x) - np.asarray(x).T) ** 2)
    assert compiled_median(x) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("distance", [1e3, 1e5])
def test_a_far_point_changes_nothing(distance):
    x = np.random.default_rng(0).normal(size=(100, 3))
    x[0] += distance
    expected = np.median(((x[:, None] - x) ** 2).sum(-1))
    assert compiled_median(jnp.asarray(x, jnp.float32)) == pytest.approx(expected, rel=1e-3)


def compiled_median(x):
    heuristic = MedianHeuristic()
    h, _ = jax.jit(lambda x: heuristic.choose(x, heuristic.init(x)))(x)
    return 2 * np.log(len(x) + 1) * float(h)

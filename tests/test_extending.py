"""The page on adding to the package: its code runs, and finds what the page says."""

import re
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.compiles

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("extending"))
        exec("\n".join(code), names)
    return names


COV = np.linalg.inv([[2.0, 0.5], [0.5, 1.0]])


@pytest.mark.slow
def test_a_family_finds_its_optimum(made):
    approx = made["approx"]
    np.testing.assert_allclose(approx.mean, 1, atol=1e-3)
    np.testing.assert_allclose(approx.std, np.sqrt(2 / 3), rtol=1e-3)
    assert approx.params["rho"].shape == (1,)
    assert approx.sample(10)["posterior"]["x"].shape == (1, 10, 2)
    assert approx.diagnose(random_seed=0).ok


@pytest.mark.slow
def test_an_objective_has_its_own_optimum(made):
    wide = made["wide"]
    assert (wide.std > np.sqrt(np.diag(COV))).all()
    np.testing.assert_allclose(wide.std, [0.85, 1.15], atol=0.02)
    assert abs(wide.hist[-5000:].mean()) < 0.01  # the log evidence is 0, the ELBO -0.067


@pytest.mark.slow
@pytest.mark.parametrize("name", ["svgd", "heavy"])
def test_kernels(made, name):
    particles = made[name]
    np.testing.assert_allclose(particles.mean, 1, atol=0.02)
    np.testing.assert_allclose(particles.std, np.sqrt(np.diag(COV)), rtol=0.15)


@pytest.mark.slow
def test_a_callback_stops(made):
    assert made["short"].status == "stopped"
    assert made["short"].steps == 100
    assert "narrow enough at step 100" in made["short"].facts.message


@pytest.mark.slow
def test_a_source_is_read(made):
    y = np.random.default_rng(0).normal(3, 1, 2000)
    precision = 2000 + 1 / 100
    mean, sd = y.sum() / precision, precision**-0.5
    assert abs(made["streamed"].mean[0] - mean) < 0.5 * sd
    np.testing.assert_allclose(made["streamed"].std, sd, rtol=0.1)


def test_recipes_are_short():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    lengths = [sum(bool(line.strip()) for line in block.splitlines()) for block in blocks]
    assert len(blocks) > 8
    assert max(lengths) <= 20

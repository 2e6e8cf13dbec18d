"""What docs/how-to-choose.md and docs/guides.md say is so, and their code runs."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_vi_ext as vi

pytestmark = pytest.mark.compiles

DOCS = Path(__file__).parents[1] / "docs"
QUIET = {"random_seed": 0, "progressbar": False}


def code_of(page, begin="", end=""):
    """The Python of a page, or of the part of it that is between two headings."""
    text = (DOCS / page).read_text(encoding="utf-8")
    _, _, text = text.partition(begin) if begin else ("", "", text)
    text = text.partition(end)[0] if end else text
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))


def run_apart(code, **environment):
    """The output of a program in a process of its own."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# -- how to choose


def normal(cov):
    numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), cov))


def test_mean_field_is_too_narrow_by_the_root_of_one_minus_rho_squared():
    page = (DOCS / "how-to-choose.md").read_text(encoding="utf-8")
    correlations, ratios = (
        [float(x) for x in re.findall(r"\d[.\d]*", line)]
        for line in re.findall(r"^\| (?:correlation|sd of mean-field) .*", page, re.M)
    )
    assert correlations == [0, 0.5, 0.9, 0.99]
    for rho, ratio in zip(correlations, ratios, strict=True):
        exact = np.sqrt(1 - rho**2)
        assert ratio == pytest.approx(exact, abs=0.005)
        cov = np.array([[1, rho], [rho, 1]])
        assert np.linalg.inv(cov)[0, 0] ** -0.5 == pytest.approx(exact)  # the formula of the page
        approx = vi.fit(normal, 2000, model_args=(cov,), warmup=False, **QUIET)
        assert approx.std == pytest.approx(exact, rel=0.03)


@pytest.mark.slow
def test_code_of_the_page_on_choosing_runs():
    names = {}
    exec(code_of("how-to-choose.md"), names)
    verdict, better = names["verdict"], names["better"].diagnose(random_seed=0)
    assert verdict.headline == "not to be trusted"
    assert verdict.advice[0].startswith("The posterior is correlated")
    assert better.headline == "good"
    assert names["settled"].status == "converged"
    assert names["settled"].steps == 1024
    assert names["advi"].approx.steps == 10_200
    assert len(names["particles"].histogram) == 200


@pytest.mark.slow
def test_pictures_on_choosing():
    script = runpy.run_path(str(DOCS / "pictures" / "how_to_choose.py"))
    narrow, full, particles = script["fits"](script["correlated"]).values()
    assert narrow.std == pytest.approx(np.sqrt(1 - script["RHO"] ** 2), rel=0.01)
    assert full.std == pytest.approx(1, rel=0.01)
    assert particles.std == pytest.approx(1, rel=0.05)

    one, two, both = script["fits"](script["bimodal"]).values()
    for approx, khat in ((one, 0.96), (two, 0.79)):
        assert np.abs(approx.mean - script["CENTRES"][1]).max() < 0.1  # the larger hump
        verdict = approx.diagnose(random_seed=0)
        assert verdict.khat == pytest.approx(khat, abs=0.1)
        assert "posterior density where q has none" in verdict.advice[0]
    assert (script["points"](both).sum(axis=1) > 0).mean() == pytest.approx(0.70, abs=0.03)
    options = {**script["METHODS"]["SVGD, 200 particles"], **QUIET}
    for centre, share in zip(script["CENTRES"], (0.02, 0.98), strict=True):
        started = vi.fit(script["bimodal"], start={"x": centre}, **options)
        assert (started.histogram.sum(axis=1) > 0).mean() == pytest.approx(share, abs=0.02)


@pytest.mark.slow
def test_noise_of_batches():
    script = runpy.run_path(str(DOCS / "pictures" / "batch_size.py"))
    for size in (100, 500):
        assert script["noise"](size) == pytest.approx(np.sqrt(script["ROWS"] / size), rel=0.05)


# -- guides


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


START = code_of("guides.md", end="## Data that")


@pytest.mark.slow
def test_guide_to_large_data(in_folder):
    names = {}
    code = code_of("guides.md", end="## Prediction").replace(
        "5_000, model_args", "2_000, model_args"
    )
    for part in re.split(r"(?=^import h5py|^import pyarrow)", code, flags=re.M):
        exec(part, names)
        assert names["approx"].mean[:3] == pytest.approx([1, -1, 0.5], abs=0.03)
        assert names["stream"]["X"].shape == (500, 3)
    rows = np.load("rows.npy")
    expected = np.column_stack([names["X"], names["y"]]).astype(np.float32)
    assert not np.array_equal(rows, expected)
    assert np.array_equal(rows[names["places"]], expected)
    assert {*map(bytes, rows)} == {*map(bytes, expected)}  # every row, each in one piece


@pytest.mark.slow
def test_guides_to_prediction_files_and_nuts(in_folder):
    names = {}
    exec(START + code_of("guides.md", "## Prediction", "## GPU"), names)
    mean, drawn = np.asarray(names["mean"]), np.asarray(names["drawn"])[0]
    assert mean.shape == drawn.shape == (1000, 5)
    exact = names["X_new"] @ [1.0, -1.0, 0.5]
    assert np.abs(mean.mean(0) - exact).max() < 0.02
    assert drawn.std(0) == pytest.approx(0.3, rel=0.1)
    assert (names["high"] - names["low"]).mean() == pytest.approx(2 * 1.645 * 0.3, rel=0.1)
    approx, again = names["approx"], names["again"]
    same = [a.sample_dict(10, random_seed=2)["w"] for a in (approx, again)]
    assert np.array_equal(*same)
    assert names["longer"].steps == 2_000
    assert np.abs((names["longer"].mean - approx.mean) / approx.std).max() < 0.1
    exact, start = names["exact"], names["start"]
    assert np.abs((exact.mean - start.mean) / start.std).max() < 0.3
    assert exact.std == pytest.approx(start.std, rel=0.2)


@pytest.mark.slow
def test_guide_to_devices():
    code = START + code_of("guides.md", "## GPU", "## Double").replace("1_000", "200")
    two = "--xla_force_host_platform_device_count=2 " + os.environ.get("XLA_FLAGS", "")
    check = """
assert jax.tree.leaves(approx.point)[0].devices() == {device}, "fitted there"
assert approx.sample_dict(10)["w"].devices() != {device}, "outside of the block, the default again"
pinned = [jax.device_put(x.astype(np.float32), device) for x in (X, y)]
fit = vi.fit(model, 200, model_args=tuple(pinned), random_seed=0, progressbar=False)
assert fit.sample_dict(10)["w"].devices() == {device}, "where the data are"
assert np.array_equal(fit.mean, approx.mean)
for value in (approx.mean, approx.std, approx.params["mu"], approx.hist):
    assert isinstance(value, np.ndarray), "on the host"
key = jax.random.key(0)
for value in (approx.sample_dict(2)["w"], approx.draw(key)["w"], approx.sample_node("w")):
    assert isinstance(value, jax.Array), "on the device"
"""
    run_apart(code + check, XLA_FLAGS=two)


@pytest.mark.slow
@pytest.mark.parametrize("double", ["0", "1"])
def test_guide_to_double_precision(double):
    code = START + code_of("guides.md", "## Double", "## Reproducibility")
    check = """
batch = vi.Minibatch(np.arange(10), batch_size=2)
print(off, centred.mean[0] / 0.001, approx.mean.dtype, vi.Minibatch(X, batch_size=2).dtype)
print(batch.dtype, approx.sample_dict(1, random_seed=0)["mu"].dtype)
"""
    off, centred, *dtypes = run_apart(code + check, JAX_ENABLE_X64=double)
    assert abs(float(centred)) < 0.005
    assert float(off) == pytest.approx(0 if double == "1" else -0.81, abs=0.005)
    floats = "float64" if double == "1" else "float32"
    assert dtypes == [floats, floats, "int64" if double == "1" else "int32", floats]


@pytest.mark.slow
def test_guide_to_reproducibility():
    code = START + code_of("guides.md", "## Reproducibility", "## Common")
    names, before = {}, np.random.get_state()[1].copy()  # noqa: NPY002
    exec(code, names)
    assert np.array_equal(names["one"].hist, names["two"].hist)
    assert np.array_equal(names["one"].mean, names["two"].approx.mean)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert names["attrs"]["seed"] == 7
    data = {"model_args": (names["X"], names["y"]), "progressbar": False}
    seed = names["seed"]
    repeated = vi.fit(names["model"], 500, random_seed=seed, callbacks=[lambda *a: None], **data)
    assert np.array_equal(repeated.mean, names["unseeded"].mean)
    bits = run_apart(code + "\nprint(one.mean.tobytes().hex())")[-1]
    assert bits == names["one"].mean.tobytes().hex()


# -- common errors


def by_rows(X, y):
    with numpyro.plate("row", len(y)):
        effect = numpyro.sample("effect", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(X[:, 0] + effect, 1), obs=y)


def coin(y):
    p = numpyro.sample("p", dist.Uniform(0, 1))
    numpyro.sample("y", dist.Bernoulli(p).expand([3]).to_event(1), obs=y)


X, Y = np.ones((4, 1), np.float32), np.zeros(4, np.float32)
BATCHES = vi.Minibatch(X, Y, batch_size=2)
CAUSES = {
    "discrete latent sites are not supported": lambda: vi.fit(coin, model_args=(None,)),
    "model_args must be a tuple": lambda: vi.fit(coin, model_args=Y),
    "n must be an integer": lambda: vi.fit(coin, 1e4, model_args=(np.ones(3),)),
    "model argument 'X' is an array of object dtype": lambda: vi.fit(
        by_rows, model_args=(X.astype(object), Y)
    ),
    "NaN or infinity at step": lambda: vi.fit(
        by_rows, 5, model_args=(X, Y), obj_optimizer=vi.sgd(1e30), **QUIET
    ),
    "latent sites, or params, with an entry for each row": lambda: vi.fit(
        by_rows, model_args=tuple(BATCHES)
    ),
    "the latent site ... has shape ...": lambda: vi.MeanField(
        by_rows, model_args=(X, Y)
    ).sample_posterior_predictive(2, model_args=(X[:2], Y[:2])),
    "A node that is a function is compiled": lambda: vi.MeanField(
        by_rows, model_args=(X, Y)
    ).sample_node(lambda s: np.sin(s["effect"])),
}


@pytest.mark.slow
def test_common_errors():
    page = (DOCS / "guides.md").read_text(encoding="utf-8").partition("## Common errors")[2]
    quoted = re.findall(r"^\| (?:a note: )?`(.+?)` \|", page, re.M)
    assert quoted == [*CAUSES]
    for message, cause in CAUSES.items():
        pattern = ".*".join(map(re.escape, message.split("...")))
        with pytest.raises((ValueError, TypeError, ArithmeticError)) as caught:
            cause()
        texts = [str(caught.value), *getattr(caught.value, "__notes__", ())]
        assert any(re.match(pattern, text) for text in texts), (message, texts)

"""Every line of the tables for people from PyMC is run, and what it claims is looked at."""

import ast
import inspect
import pickle
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest
from numpyro import distributions as dist

import numpyro_vi_ext as vi

pytestmark = pytest.mark.compiles

PAGE = (Path(__file__).parents[1] / "docs" / "from-pymc.md").read_text("utf-8")
ROOTS = {"vi": vi, "np": np, "jnp": jnp, "jax": jax, "optax": optax, "pickle": pickle}
KINDS = {  # what the variables of the tables are
    "advi": vi.ADVI,
    "approx": vi.FullRank,
    "particles": vi.Empirical,
    "tracker": vi.Tracker,
    "x_mb": vi.Minibatch,
}


class Row(NamedTuple):
    section: str
    theirs: str
    code: tuple[str, ...]
    error: str | None


def read_row(section, line):
    """One line of a table; a ValueError if it is not code, or code that raises one error."""
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
    if len(cells) != 5 or cells[0] or cells[-1] or not cells[1]:
        raise ValueError(f"not a line of three columns: {line}")
    match = re.fullmatch(r"(`[^`]+`(?:<br>`[^`]+`)*)(?: raises `([\w.]+)`)?", cells[2])
    if not match:
        raise ValueError(f"not code, or code that raises an error: {cells[2]}")
    code = tuple(re.findall("`([^`]+)`", match[1]))
    for part in code:
        ast.parse(part)
    return Row(section, cells[1], code, match[2])


def read_rows(page):
    rows, section = [], ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("|") and not re.match(r"\| (PyMC \||SVI \||---)", line):
            rows.append(read_row(section, line))
    return rows


ROWS = read_rows(PAGE)
IDS = [f"{row.section}: {row.code[0]}"[:80] for row in ROWS]

FITTED = "isinstance(value, vi.Approximation) and value.steps > 0 and len(value.hist) > 0"
CHECKS = {  # first piece of code -> what must be true of the value of the last piece
    "vi.fit(model, **data)": (
        "type(value) is vi.MeanField and len(value.hist) == 10_000 and value.facts.warmup"
    ),
    'vi.fit(model, obj_optimizer=vi.adagrad_window, inf_kwargs={"estimator": '
    "vi.ClosedFormEntropy()}, **data)": "value.facts.warmup == '' and len(value.hist) == 10_000",
    "vi.fit(model, obj_optimizer=vi.adam(learning_rate=0.01), **data)": "value.facts.warmup == ''",
    'vi.fit(model, 20_000, method="fullrank_advi", **data)': (
        "value.steps == 20_000 and vi.fit(model, 0, 'FullRank_ADVI', **data).steps == 0"
    ),
    'vi.fit(model, 300, method="svgd", inf_kwargs={"n_particles": 100}, **data)': (
        "value.histogram.shape == (100, 3)"
    ),
    'vi.fit(model, 300, method="asvgd", **data)': (
        "type(value) is vi.FullRank and "
        "vi.ASVGD(model, start={'a': 2.0}, **data).approx.mean[0] == 2"
    ),
    "vi.fit(method=advi)": "type(value) is vi.MeanField and value is advi.approx",
    "vi.fit(model, method=vi.ADVI, **data)": "type(value) is vi.MeanField",
    'vi.fit(model, start={"sigma": 0.5}, **data)': "value.facts.warmup == ''",
    'vi.fit(model, start_sigma={"sigma": 0.1}, **data)': (
        "value.facts.warmup == '' and "
        "abs(vi.MeanField(model, start_sigma={'sigma': 0.1}, **data).std[2] - 0.1) < 1e-6 and "
        "abs(vi.FullRank(model, start_sigma={'sigma': 0.1}, **data).std[2] - 0.1) < 1e-6"
    ),
    "vi.fit(model, model_args=(x, y), random_seed=1)": (
        "np.array_equal(value.hist, vi.fit(model, **data).hist) and np.array_equal("
        "vi.SVGD(model, **data).approx.histogram, vi.SVGD(model, **data).approx.histogram)"
    ),
    "vi.fit(model, obj_n_mc=10, **data)": FITTED,
    "vi.fit(model, obj_optimizer=vi.sgd(1e30), **data)": (
        "type(value) is vi.NonFiniteError and 'sigma' in value.sites and value.approx.steps == 1"
    ),
    "vi.fit(discrete)": "isinstance(value, ValueError) and value.sites == ('k',)",
    'vi.Empirical({"a": np.zeros(3)}, model=model, **data)': (
        "'b' in str(value) and 'sigma' in str(value)"
    ),
    "advi.fit(100, callbacks=[lambda approx, losses, i: 1 / 0])": "len(advi.hist) > 100",
    'approx.constrain(np.zeros((5, 3)))["sigma"]': "value.shape == (5,) and value[0] == 1",
    "vi.fit(model, total_grad_norm_constraint=10.0, **data)": FITTED,
    'vi.fit(model, more_replacements={"x": x_mb, "y": y_mb}, **data)': FITTED,
    "vi.fit(with_param, **data).model_params": "abs(value['slope'] - 2) < 0.1",
    "vi.fit(model, score=False, **data)": "value.hist.size == 0 and value.steps == 10_000",
    "vi.fit(model, progressbar=False, **data)": FITTED,
    "vi.fit(model, 0, **data)": "value.steps == 0 and abs(value.std[0] - np.log(2)) < 1e-6",
    "vi.ADVI(model, **data)": "np.allclose(value.approx.std, np.log(2)) and value.hist.size == 0",
    "vi.FullRankADVI(model, **data)": "np.allclose(value.approx.std, np.log(2))",
    "vi.KLqp(approx, beta=1.0).fit(100)": "value is not approx and value.steps == 100",
    "issubclass(vi.ADVI, vi.Inference)": "value",
    "advi.fit(100)": "value.steps == 100 and len(advi.hist) == len(value.hist) == 200",
    "advi.refine(100)": (
        "value.steps == 200 and len(value.hist) == len(advi.hist) == 200 and value is advi.approx"
    ),
    "advi.hist": "value.shape == (100,) and np.array_equal(value, advi.approx.hist)",
    "advi.approx.status, advi.approx.message, advi.approx.steps": (
        "value[0] == 'finished' and value[1].startswith('Finished') and value[2] == 100"
    ),
    "approx.elbo(1000)": (
        "abs(value.elbo + approx.hist[-1000:].mean()) < 1 and 0 < value.se < 0.1"
    ),
    "jax.profiler.trace": "callable(value)",
    "vi.to_nuts(approx, num_chains=2)": "value[1]['a'].shape == (2,)",
    "vi.MeanField(model, **data).params": "set(value) == {'mu', 'rho'}",
    "vi.FullRank(model, **data).params": (
        "set(value) == {'mu', 'L_tril'} and value['L_tril'].shape == (6,)"
    ),
    "isinstance(approx, vi.Approximation)": "value",
    'approx.params["mu"]': "value.shape == (3,)",
    "approx.mean": "value.shape == (3,) and abs(value[2] - np.log(0.5)) < 0.2",
    "approx.std": "value.shape == (3,)",
    "approx.cov": "value.shape == (3, 3) and value[0, 1] < 0",
    'approx.mean_data["sigma"], approx.std_data["sigma"]': "value[0] == approx.mean[2]",
    "approx.summary()": "abs(value.loc['sigma', 'mean'] - 0.5) < 0.05",
    "approx.ndim": "value == 3",
    "repr(approx)": "value.startswith('FullRank(sites=[a, b, sigma], ndim=3')",
    'approx.ordering["sigma"]': "value == (slice(2, 3), ())",
    'hasattr(approx, "log_prob"), isinstance(approx, vi.Empirical)': (
        "value == (True, False) and not hasattr(particles, 'log_prob')"
    ),
    "approx.log_prob(approx.mean)": "value.shape == ()",
    "approx.model.log_density(approx.mean)": "value.shape == ()",
    'approx.draw(jax.random.key(0))["a"]': "value.shape == ()",
    "approx.hist": "value.ndim == 1",
    "vi.Empirical(size=100, jitter=1.0, model=model, **data)": (
        "np.array_equal(value.histogram, vi.Empirical(size=100, model=model, **data).histogram)"
    ),
    "particles.histogram": "value.shape == (100, 3)",
    "particles.sample_dict(10)": "set(np.asarray(value['a'])) <= set(particles.histogram[:, 0])",
    "vi.FullRank.from_approx(vi.MeanField(model, **data))": "np.allclose(value.std, np.log(2))",
    "approx.sample(500)": (
        "value['posterior']['mean'].shape == (1, 500, 400) and value['posterior']['a'].ndim == 2"
        " and value['fit_stats']['loss'].size == approx.hist.size"
        " and 'y' in value['observed_data'] and 'x' in value['constant_data']"
    ),
    "approx.sample(500, random_seed=2)": (
        "np.array_equal(*[v['posterior']['a'] for v in (value, approx.sample(random_seed=2))])"
        " and not np.array_equal(value['posterior']['a'], approx.sample()['posterior']['a'])"
    ),
    'approx.sample(500, include_transformed=True)["posterior"]["sigma__unconstrained"]': (
        "value.shape == (1, 500) and value.values.mean() < 0"
    ),
    'approx.sample(500, return_inferencedata=False)["a"]': (
        "type(value) is np.ndarray and value.shape == (500,)"
    ),
    'approx.sample_dict(500)["a"]': "isinstance(value, jax.Array) and value.shape == (500,)",
    'approx.sample_dict(500)["sigma"]': (
        "abs(value.mean() - 0.5) < 0.05 and 'mean' in approx.sample_dict(500)"
    ),
    'approx.sample(500, dims={"mean": ["row"]}, coords={"row": np.arange(400)})': (
        "value['posterior']['mean'].dims == ('chain', 'draw', 'row')"
        " and value['observed_data']['y'].dims == ('row',)"
    ),
    "vi.sample_approx(approx, draws=100)": "value['posterior']['a'].shape == (1, 100)",
    "approx.sample_posterior_predictive(500)": (
        "value['posterior_predictive']['y'].shape == (1, 500, 400)"
    ),
    'approx.sample_posterior_predictive(500, more_replacements={"x": x_new})["predictions"]["y"]': (
        "value.shape == (1, 500, 2) and abs(float(value[..., 0].mean()) - 21) < 0.2"
    ),
    'approx.to_arviz(500, log_likelihood=True)["log_likelihood"]["y"]': (
        "value.shape == (1, 500, 400)"
    ),
    'approx.sample_node(lambda s: s["a"] / s["b"])': (
        "value.shape == () and value != approx.sample_node(lambda s: s['a'] / s['b'])"
    ),
    'approx.sample_node("mean", size=100)': "value.shape == (100, 400)",
    '[approx.sample_node("a", size=i).shape for i in (10, 20)]': "value == [(10,), (20,)]",
    'approx.sample_node(["a", "b"], size=100)': (
        "type(value) is list and np.corrcoef(*value)[0, 1] < -0.5"
    ),
    'approx.sample_node("mean", deterministic=True)': (
        "np.allclose(value, approx.mean[0] + approx.mean[1] * x, atol=1e-4) and np.isclose("
        "particles.sample_node('a', deterministic=True), particles.mean[0])"
    ),
    'approx.sample_node("mean", more_replacements={"x": x_new})': "value.shape == (2,)",
    'approx.sample_node("a", more_replacements={"a": 1.0})': "value == 1",
    'approx.sample_node("y")': "np.allclose(value, y)",
    'approx.sample_node("a", random_seed=2)': "value == approx.sample_node('a', random_seed=2)",
    'particles.evaluate_over_trace("mean")': (
        "np.allclose(value[:, 0], particles.histogram @ [1, x[0], 0], rtol=1e-4)"
    ),
    'approx.sample_node("mean")': "value.shape == (400,)",
    "vi.Empirical(approx.sample_dict(50), model=model, **data)": (
        "value.histogram.shape == (50, 3) and value.histogram[:, 2].max() < 0"
    ),
    "vi.Empirical(idata, model=model, **data)": "len(value.histogram) == 1000",
    "vi.Empirical(mcmc, model=model, **data)": "len(value.histogram) == 20",
    "vi.fit(model, 100, callbacks=[lambda approx, losses, i: None], **data)": FITTED,
    "report.every = 50": "called == [50, 100]",
    "vi.fit(model, 100, callbacks=[stop], **data)": (
        "value.status == 'stopped' and value.message.startswith('why') and len(value.hist) == 9"
    ),
    'vi.CheckParametersConvergence(every=100, tolerance=1e-3, diff="relative", ord=np.inf)': (
        "vars(value) == vars(vi.CheckParametersConvergence())"
    ),
    "vi.CheckLossConvergence()": "vi.fit(model, 'auto', **data).status == 'converged'",
    "vi.Tracker(mean=lambda: advi.approx.mean)": (
        "advi.fit(3, callbacks=[value]) is not None and len(value['mean']) == 3 and "
        "not np.array_equal(value['mean'][0], value['mean'][2])"
    ),
    "vi.Tracker(every=10, mean=lambda approx: approx.mean, last=lambda approx, losses, i: "
    "losses[-1])": (
        "advi.fit(30, callbacks=[value]) is not None and value.steps == [10, 20, 30] and "
        "value['last'] == [advi.hist[k - 31] for k in value.steps]"
    ),
    'tracker["mean"], tracker.hist["mean"], tracker.steps': (
        "value[0] is value[1] and value[2] == [*range(10, 101, 10)]"
    ),
    "tracker.clear()": "tracker['mean'] == [] == tracker.steps",
    "advi.approx.status": "value == 'finished'",
    "vi.adam(1e-3).init(jnp.zeros(2))": "hasattr(vi.adam(1e-3), 'update')",
    "optax.chain(vi.sgd(1e-3), optax.trace(0.9))": (
        "np.allclose(twice(value), twice(vi.momentum(1e-3)))"
    ),
    "optax.chain(vi.sgd(1e-3), optax.trace(0.9, nesterov=True))": (
        "np.allclose(twice(value), twice(vi.nesterov_momentum(1e-3)))"
    ),
    "vi.fit(model, 100, obj_optimizer=vi.sgd(1e-5), total_grad_norm_constraint=10.0, **data)": (
        "np.linalg.norm(value.mean - vi.fit(model, 0, **data).mean) <= 100 * 1e-5 * 10"
    ),
    "optax.projections.projection_l2_ball(jnp.array([3.0, 4.0]), 1.0)": (
        "np.allclose(value, [0.6, 0.8])"
    ),
    "vi.adam(optax.exponential_decay(0.01, 1_000, 0.5))": (
        "vi.fit(model, 10, obj_optimizer=value, **data).steps == 10"
    ),
    "vi.SVGD(model, n_particles=100, jitter=1.0, temperature=1.0, **data)": (
        "np.array_equal(value.approx.histogram, vi.SVGD(model, **data).approx.histogram)"
    ),
    "vi.SVGD(model, jitter=0.0, **data).fit(10)": (
        "np.isfinite(value.histogram).all() and np.allclose(value.std, 0, atol=1e-4)"
    ),
    "vi.SVGD(model, kernel=lambda x, y: jnp.exp(-jnp.sum((x - y) ** 2)), **data).fit(10)": (
        "np.isfinite(value.histogram).all()"
    ),
    'vi.fit(model, 100, "svgd", **data)': (
        "value.hist.size == 0 and abs(value.mean[0] - approx.mean[0]) < 0.2 < "
        "abs(vi.fit(model, 100, 'svgd', obj_optimizer=vi.adagrad_window, **data).mean[0] - "
        "approx.mean[0])"
    ),
    'vi.fit(model, 100, "svgd", score=True, **data)': "len(value.hist) == 100",
    'vi.fit(model, 100, "svgd", model_args=(x_mb, y_mb))': "type(value) is vi.Empirical",
    "vi.ASVGD(model, **data)": "type(value.approx) is vi.FullRank",
    "vi.ASVGD(approx=vi.MeanField(model, **data))": "type(value.approx) is vi.MeanField",
    "vi.ASVGD(model, **data).fit(10, obj_n_mc=500)": (
        "np.array_equal(value.mean, vi.ASVGD(model, **data).fit(10).mean)"
    ),
    "vi.Minibatch(x, y, batch_size=50)": (
        "off_line(value.eval()) < 2.5 and vi.Minibatch(x, batch_size=np.int64(50)).shape == (50,)"
    ),
    "vi.fit(model, 2_000, model_args=(x_mb, y_mb), random_seed=1)": (
        "abs(value.hist[-500:].mean() / approx.hist[-500:].mean() - 1) < 0.1 and value.sample_"
        "posterior_predictive(2)['posterior_predictive']['y'].shape == (1, 2, 400)"
    ),
    'vi.fit(model, 100, model_args=(x[:50], y[:50]), total_size={"y": 400})': (
        "vi.fit(model, 100, model_args=(x[:50], y[:50]), total_size={'y': [400]}).steps == 100"
    ),
    "vi.Minibatch(np.ones((20, 3, 4)), batch_size=[(10, 42), ..., None]).shape": (
        "value == (10, 3, 4)"
    ),
    "vi.Minibatch(x, random_seed=7, batch_size=50)": (
        "not np.array_equal(value.eval(), vi.Minibatch(x, batch_size=50).eval()) and np.array_equal"
        "(*[vi.Minibatch(x, batch_size=50, **o).eval() for o in ({}, {'random_seed': 42})])"
    ),
    "x_mb, y_mb = vi.Minibatch(x, y, batch_size=50)": (
        "off_line([(x_mb.eval(), y_mb.eval()) for _ in range(3)][2]) < 2.5"
    ),
    "x_mb.eval()": "not np.array_equal(value, x_mb.eval())",
    "vi.Minibatch(x, update_shared_f=lambda: x + 1).update_shared()": "x_mb.shared.shape == (400,)",
    "vi.Minibatch(x, batch_size=50, in_memory_size=100).total_size": "value == (100,)",
    'vi.Stream(lambda: ({"x": x[i : i + 50], "y": y[i : i + 50]} for i in range(0, 400, 50)), '
    "total_size=400)": ("vi.fit(model, 20, model_args=(value['x'], value['y'])).steps == 20"),
    'vi.Minibatch(x, y, batch_size=50, sampling="epoch")': (
        "len(set(np.concatenate([value.eval()[0] for _ in range(8)]))) == 400"
    ),
    'approx.save("fit.npz")': "np.array_equal(value.mean, approx.mean)",
    "pickle.loads(pickle.dumps(approx))": "np.array_equal(value.mean, approx.mean)",
}
DEFAULTS = ("adagrad_window", "sgd", "momentum", "nesterov_momentum", "adagrad", "rmsprop")
DEFAULTS += ("adadelta", "adam", "adamax")


def with_param(x, y):
    slope = numpyro.param("slope", 1.0)
    a = numpyro.sample("a", dist.Normal(0, 10))
    numpyro.sample("y", dist.Normal(a + slope * x, 0.5).to_event(1), obs=y)


def discrete():
    numpyro.sample("k", dist.Poisson(1.0))


def off_line(batch):
    """How far the data of a batch are from the line they were made with: 0.5 is their sd."""
    return np.abs(batch[1] - 1 - 2 * batch[0]).max()


def twice(optimizer):
    """The second step of an optimizer on a constant gradient."""
    gradient = jnp.array([1.0, -3.0])
    _, state = optimizer.update(gradient, optimizer.init(gradient))
    return optimizer.update(gradient, state)[0]


def run_mcmc(model, x, y):
    options = {"num_warmup": 20, "num_samples": 20, "progress_bar": False}
    mcmc = numpyro.infer.MCMC(numpyro.infer.NUTS(model), **options)
    mcmc.run(jax.random.key(0), x, y)
    return mcmc


@pytest.fixture(scope="module")
def page():
    """The names of the page after its blocks of Python code, in a module of their own."""
    module = ModuleType("page_from_pymc")  # a model can only be pickled where it can be imported
    sys.modules[module.__name__] = module
    names = module.__dict__
    exec("\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)), names)
    names |= {"data": {"model_args": (names["x"], names["y"]), "random_seed": 1}}
    names |= {**ROOTS, "with_param": with_param, "discrete": discrete}
    names |= {"off_line": off_line, "twice": twice}
    names["particles"] = vi.fit(names["model"], 300, "svgd", **names["data"])
    names["mcmc"] = run_mcmc(names["model"], names["x"], names["y"])
    yield names
    del sys.modules[module.__name__]


@pytest.fixture
def names(page, tmp_path, monkeypatch):
    """The same, with fresh objects for what lines may change."""
    monkeypatch.chdir(tmp_path)
    advi, called = vi.ADVI(page["model"], **page["data"]), []
    tracker = vi.Tracker(every=10, mean=lambda approx: approx.mean)
    advi.fit(100, warmup=False, callbacks=[tracker])

    def report(approx, losses, i):
        called.append(i)

    def stop(approx, losses, i):
        if i == 9:
            raise StopIteration("why")

    x_mb, y_mb = vi.Minibatch(page["x"], page["y"], batch_size=50)
    own = {"advi": advi, "tracker": tracker, "called": called, "report": report, "stop": stop}
    return {**page, **own, "x_mb": x_mb, "y_mb": y_mb}


def run(code, names):
    """The value of the last piece of code, or None if that is a statement."""
    for part in code:
        try:
            expression = compile(part, "<page>", "eval")
        except SyntaxError:
            exec(part, names)
            value = None
        else:
            value = eval(expression, names)
    return value


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_line_of_a_table(row, names):
    if row.error is not None:
        error = eval(row.error, names)
        with pytest.raises(error) as caught:
            run(row.code, names)
        value = caught.value
    else:
        value = run(row.code, names)
    if row.code[0] in CHECKS:
        assert eval(CHECKS[row.code[0]], {**names, "value": value})


def test_there_are_lines_and_all_checks_are_of_one():
    sections = {row.section for row in ROWS}
    assert len(ROWS) > 100
    assert sections == set(re.findall("^## (.*)", PAGE, re.M)) - {"One model in both"}
    assert len({row.code for row in ROWS if row.error is None}) > 90
    first = {row.code[0] for row in ROWS}
    assert set(CHECKS) <= first, set(CHECKS) - first
    first = {row.code[0] for row in ROWS if row.error is None}
    unchecked = [c for c in first - set(CHECKS) if not re.match(r"vi\.ada|vi\.\w+\(l", c)]
    assert not unchecked, unchecked


@pytest.mark.parametrize(
    "line", ["| a | b |", "| a | text | c |", "| a | `1 +` | c |", "| a | `1` or `2` | c |"]
)
def test_a_line_that_is_not_code_is_refused(line):
    with pytest.raises((ValueError, SyntaxError)):
        read_row("", line)


def test_all_of_pymc_is_on_the_page():
    names = "fit ADVI FullRankADVI SVGD ASVGD KLqp ImplicitGradient Inference MeanField FullRank"
    names += " Empirical Group Approximation sample_approx Stein Minibatch"
    for name in (*names.split(), *DEFAULTS):
        assert re.search(rf"`pm\.{name}\b", PAGE), name


@pytest.mark.parametrize("name", DEFAULTS)
def test_optimizers_have_the_defaults_of_pymc(name):
    (row,) = [row for row in ROWS if row.theirs == f"`pm.{name}`"]
    assert row.code[0].startswith(f"vi.{name}(learning_rate=")
    assert eval(row.code[0], dict(ROOTS)) is getattr(vi, name)()


def find(node):
    """What a dotted name in the code of a line stands for; None if that is not known."""
    if isinstance(node, ast.Name):
        return ROOTS.get(node.id, KINDS.get(node.id))
    if isinstance(node, ast.Call):  # of a class: what is true of it is true of the object
        return find(node.func) if inspect.isclass(find(node.func)) else None
    owner = find(node.value) if isinstance(node, ast.Attribute) else None
    if inspect.ismodule(owner):
        return getattr(owner, node.attr)
    return None if owner is None else getattr(owner, node.attr, None)


def test_calls_have_arguments_that_exist():
    """What can be seen of all lines without running them."""
    found = 0
    for part in (part for row in ROWS if row.error is None for part in row.code):
        for call in (node for node in ast.walk(ast.parse(part)) if isinstance(node, ast.Call)):
            if (function := find(call.func)) is not None:
                found += 1
                parameters = inspect.signature(function).parameters
                keywords = {k.arg for k in call.keywords if k.arg is not None}
                has_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
                assert has_any or keywords <= set(parameters), part
    assert found > 100

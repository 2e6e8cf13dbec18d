"""What the package offers, and what importing it does to the rest of the world."""

import inspect
import os
import subprocess
import sys
import textwrap
import tomllib

import jax
import pytest

import numpyro_vi_ext as vi

ROOT = os.path.dirname(os.path.dirname(vi.__file__))


def run(script):
    """Run a script in a fresh interpreter, warnings as errors, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_all_is_there_once():
    assert len(vi.__all__) == len(set(vi.__all__))
    assert all(hasattr(vi, name) for name in vi.__all__)


def test_nothing_else_is_public():
    modules = {name for name, value in vars(vi).items() if inspect.ismodule(value)}
    public = {name for name in vars(vi) if not name.startswith("_")} - modules
    assert public == set(vi.__all__)


def test_the_version_is_that_of_the_project():
    project = os.path.join(os.path.dirname(__file__), os.pardir, "pyproject.toml")
    with open(project, "rb") as file:
        assert vi.__version__ == tomllib.load(file)["project"]["version"]


def test_the_names_of_this_stage_are_there():
    promised = """
        ADVI ASVGD Approximation CheckLossConvergence CheckParametersConvergence
        ClosedFormEntropy DiscreteLatentError Empirical Estimator FullRank FullRankADVI Inference
        KLqp MeanField Model NonFiniteError SVGD ScoreIncluded StickingTheLanding Stream Tracker
        adadelta adagrad adagrad_window adam adamax fit imq momentum nesterov_momentum
        plot_loss plot_tracker rbf rmsprop sample_approx sgd
    """
    assert set(promised.split()) <= set(vi.__all__)


def members(cls):
    """Public methods and properties that a class of ours defines or inherits from ours."""
    for name in dir(cls):
        value = inspect.getattr_static(cls, name)
        if isinstance(value, classmethod | staticmethod):
            value = value.__func__
        ours = getattr(value, "__module__", getattr(getattr(value, "fget", None), "__module__", ""))
        if not name.startswith("_") and str(ours).startswith("numpyro_vi_ext"):
            yield f"{cls.__name__}.{name}", value


def test_everything_public_is_documented():
    found = {name: getattr(vi, name) for name in vi.__all__}
    for value in list(found.values()):
        if inspect.isclass(value):
            found.update(members(value))
    assert {name for name, value in found.items() if not inspect.getdoc(value)} == set()
    assert "Approximation.mean" in found  # properties were looked at as well
    assert "ADVI.refine" in found


@pytest.mark.parametrize(
    "name", "fit ADVI KLqp MeanField SVGD ASVGD rbf imq Stream Tracker Model".split()
)
def test_parameters_are_described(name):
    value = getattr(vi, name)
    doc = inspect.getdoc(value).split("Parameters\n-----")[1]
    assert [p for p in inspect.signature(value).parameters if p not in doc] == []


def test_fit_has_the_signature_of_the_design():
    parameters = inspect.signature(vi.fit).parameters
    assert list(parameters)[:3] == ["model", "n", "method"]
    assert parameters["n"].default == 10_000
    assert parameters["method"].default == "advi"
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[3:])


def test_import_is_quiet_and_light():
    script = """
        import sys
        import jax
        before = dict(jax.config.values)
        import numpyro
        heavy = "arviz arviz_base matplotlib pandas scipy.stats sklearn xarray".split()
        ours = set(heavy) - set(sys.modules)  # what NumPyro imports is not of our doing
        import numpyro_vi_ext
        changed = {k for k, v in jax.config.values.items() if k in before and before[k] != v}
        print(*sorted(ours & set(sys.modules)), *changed)
        print(jax.config.jax_enable_x64)
    """
    assert run(script) == ["False"]


def test_fit_without_matplotlib_and_pandas():
    script = """
        import sys
        sys.modules["pandas"] = sys.modules["matplotlib"] = None  # makes importing them an error
        import numpyro, numpyro.distributions as dist
        import numpyro_vi_ext as vi

        def model():
            numpyro.sample("x", dist.Normal(3, 1))

        approx = vi.fit(model, 20, random_seed=0, progressbar=False)
        print(*approx.sample_dict(2)["x"].shape, approx.status)
    """
    assert run(script) == ["2", "finished"]


def test_fit_leaves_global_settings_alone():
    import numpyro
    import numpyro.distributions as dist

    before = dict(jax.config.values)
    vi.fit(lambda: numpyro.sample("x", dist.Normal(0, 1)), 20, progressbar=False)
    assert dict(jax.config.values) == before


def test_double_precision_follows_the_users_setting():
    script = """
        import jax
        jax.config.update("jax_enable_x64", True)
        import numpy as np, numpyro, numpyro.distributions as dist
        import numpyro_vi_ext as vi

        def model(y):
            s = numpyro.sample("s", dist.HalfNormal(2.0).expand([2]).to_event(1))
            mu = numpyro.sample("mu", dist.Normal(0, 10))
            numpyro.sample("y", dist.Normal(mu, s[0] + s[1]), obs=y)

        arrays = []
        for method, optimizer in (("advi", vi.adam(1e-2)), ("fullrank_advi", None)):
            tracker = vi.Tracker(every=10, mean=lambda q: q.mean, losses=lambda q, l, i: l)
            approx = vi.fit(
                model, 50, method, model_args=(1.0,), random_seed=0, callbacks=[tracker],
                progressbar=False, obj_optimizer=optimizer,
            )
            arrays += [*approx.params.values(), approx.mean, approx.std, approx.cov, approx.hist]
            arrays += [*approx.sample_dict(3).values(), *tracker["mean"], *tracker["losses"]]
            arrays += [approx.log_prob(np.zeros(3)), approx.entropy()]
        print(*{str(np.asarray(x).dtype) for x in arrays})
    """
    assert run(script) == ["float64"]


def test_both_precisions_in_one_process():
    script = """
        import jax, numpyro, numpyro.distributions as dist
        import numpyro_vi_ext as vi

        def model(y):
            mu = numpyro.sample("mu", dist.Normal(0, 10))
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

        for x64 in (False, True, False):
            jax.config.update("jax_enable_x64", x64)
            approx = vi.fit(model, 500, model_args=(1.5,), random_seed=0, progressbar=False)
            print(approx.mean.dtype)
    """
    assert run(script) == ["float32", "float64", "float32"]

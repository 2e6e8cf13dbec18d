"""What the pages say is so: quoted messages exist, links lead somewhere, code runs."""

import ast
import logging
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import numpyro_vi_ext as vi

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
ELSEWHERE = {
    "conflicting sizes for dimension ...",  # raised by xarray
    "learning_rate must be a number >= 0 or a schedule",  # put together from two strings
}


def texts_of_package():
    """Every string in the source, with a gap in place of each inserted value."""
    texts = []
    for path in sorted((ROOT / "numpyro_vi_ext").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "\0" for p in node.values)
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def quoted_messages():
    page = PAGES["errors.md"].read_text(encoding="utf-8")
    terms = [before for before, after in re.findall(r"^(`.*)\n(:)", page, re.MULTILINE)]
    return [message for term in terms for message in re.findall("`([^`]+)`", term)]


def test_quoted_messages_exist():
    messages = [m for m in quoted_messages() if " " in m and m not in ELSEWHERE]
    assert len(messages) > 50
    texts = texts_of_package()
    for message in messages:
        pieces = (p.strip() for p in re.sub(r"^\w+Error: ", "", message).split("..."))
        pattern = re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)
        assert any(pattern.search(text) for text in texts), f"no such message: {message}"


@pytest.mark.parametrize("name", PAGES)
def test_links_within_the_repository(name):
    path = PAGES[name]
    for target in re.findall(r"\]\(([^)#]+?)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{name} links to {target}"


def test_pictures_are_small():
    for path in (ROOT / "docs" / "images").iterdir():
        assert path.suffix == ".png"
        assert path.stat().st_size < 60_000, path.name


def test_names_on_the_pages_exist():
    for name, path in PAGES.items():
        lines = path.read_text(encoding="utf-8").splitlines()
        said = "\n".join(line for line in lines if "raises `AttributeError`" not in line)
        for attribute in re.findall(r"\bvi\.(\w+)", said):
            known = hasattr(vi, attribute) or name == "design.md"
            assert known, f"{name} mentions vi.{attribute}"


def code_of(page):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGES[page].read_text("utf-8"), re.M | re.S)
    return "\n".join(blocks)


@pytest.mark.slow
@pytest.mark.compiles
def test_code_of_the_page_on_using_a_fit_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(quick(code_of("using-a-fit.md")), names)
    assert names["approx"].steps == 200
    assert names["mcmc"].get_samples()["w"].shape == (2000, 2)
    assert (tmp_path / "fit.npz").exists()


@pytest.mark.slow
@pytest.mark.compiles
def test_code_of_the_page_on_stein_methods_runs():
    names = {}
    exec(quick(code_of("stein.md")), names)
    assert names["svgd"].hist.shape == (200,)
    assert len(names["tracker"]["std"]) == 500
    assert (names["wider"].std ** 2).mean() > 0.7


def test_code_of_the_page_on_minibatches_runs():
    names = {}
    exec(quick(code_of("minibatch.md")), names)
    assert names["approx"].steps == 200
    assert names["approx"].sample_node("y").shape == (200,)


@pytest.mark.slow
@pytest.mark.compiles
def test_code_of_the_page_on_the_verdict_runs():
    names = {}
    exec(code_of("verdict.md"), names)  # with all its steps, for what is said of the results
    assert not names["verdict"].ok
    assert names["better"].diagnose(random_seed=0).ok
    assert names["smooth"]["posterior"]["w"].shape == (1, 1000, 5)
    page = PAGES["verdict.md"].read_text("utf-8")
    assert "- The spread of x[8] changes with v" in page
    assert names["verdict"].advice[0].startswith("The spread of x[")


@pytest.mark.slow
@pytest.mark.compiles
def test_code_of_the_page_on_optimisation_runs():
    names = {}
    exec(code_of("optimisation.md"), names)
    assert names["approx"].facts.warmup.startswith("warm-up: ELBO ")
    assert names["plain"].facts.warmup == names["own"].facts.warmup == ""
    X, y = names["X"], names["y"]
    exact = np.linalg.solve(X.T @ X, X.T @ y)  # with wide priors
    sd = np.sqrt(np.diag(np.linalg.inv(X.T @ X)))
    for name in ("approx", "closed"):
        assert np.abs((names[name].mean[:3] - exact) / sd).max() < 0.2


def quick(code):
    """Fewer steps, and only the plotting function that the installed ArviZ has."""
    code = re.sub(r"(\d+_000)\b", "200", code).replace("random_seed=1", "n=200, random_seed=1")
    lines = [line for line in code.splitlines() if "az." not in line]
    return "\n".join(lines)


SECTIONS = {  # of the quickstart, and a name that its cells use
    "Basic setup": "NUTS",
    "Checking convergence": "vi.CheckParametersConvergence",
    "Tracking parameters": "advi.refine",
    "SVGD, against NUTS and ADVI": "svgd_approx",
    "Expressions under q: `sample_node`": "svgd_approx.sample_node",
    "From a trace to an approximation": "vi.Empirical",
    "Multiclass logistic regression": "more_replacements",
    "Minibatches": "vi.Minibatch",
    "Did it work?": "diagnose",
}


def cells_of(text):
    """The code cells of a notebook page, without their options."""
    cells = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```", text, re.M | re.S)
    return [re.sub(r"^:.*\n", "", cell, flags=re.M) for cell in cells]


def test_quickstart_has_its_sections():
    _, *sections = re.split(r"^## ", PAGES["quickstart.md"].read_text("utf-8"), flags=re.M)
    assert [section.splitlines()[0] for section in sections] == list(SECTIONS)
    for section, name in zip(sections, SECTIONS.values(), strict=True):
        code = "\n".join(cells_of(section))
        ast.parse(code)  # no magics: the cells are plain Python
        assert name in code
        assert "```python" not in section  # would not be run


# 2026-11, ArviZ 0.23 (Python 3.11) with Matplotlib 3.11; goes when Python 3.11 goes.
@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping:DeprecationWarning")
@pytest.mark.slow
def test_what_the_quickstart_says_is_so(capsys):
    names = {}
    logger = logging.getLogger("numpyro_vi_ext")
    level = logger.level
    with plt.rc_context():
        for cell in cells_of(PAGES["quickstart.md"].read_text("utf-8"))[1:]:  # without its filters
            exec(cell, names)
            plt.close("all")
    logger.setLevel(level)
    printed = capsys.readouterr().out
    check_quickstart_mixture(names)
    assert "[2, None, 20, Ellipsis, 10] (2, 20, 20, 40, 10)" in printed
    assert [name for name in names["fits"] if names["fits"][name].status == "converged"] == [
        "absolute"
    ]
    assert len(names["tracker"]["std"]) == len(names["advi"].hist) == 120_000
    accuracy = {name: np.mean(values, axis=1) for name, values in names["accuracy"].hist.items()}
    for values in accuracy.values():
        assert values[:100].max() < 0.45  # PyMC's default optimizer
        assert values[-1] > 0.9
    assert len(names["times"]) == 20
    assert names["off"].mean() < 1
    assert names["approx"].diagnose(random_seed=0).still_moving


def check_quickstart_mixture(names):
    exact = -np.log(0.8)
    elbo = names["mean_field"].elbo(10_000, random_seed=0)
    assert abs(-elbo.elbo - exact) < 0.01 + 3 * elbo.se
    verdict = names["mean_field"].diagnose(random_seed=0)
    assert not verdict.ok
    assert verdict.khat < 0.5
    assert "another mode" in verdict.advice[0]
    stopped = names["fits"]["absolute"]
    assert abs(stopped.mean[0] - 0.5) > 0.2
    assert stopped.std[0] > 0.3
    left = {name: np.mean(x < 0.1) for name, x in names["draws"].items()}
    assert left["ADVI"] == 0
    assert 0.1 < left["NUTS"] < 0.3
    assert 0.35 < left["SVGD"] < 0.45
    assert not np.allclose(*(names["svgd_approx"].sample_node(names["a"]) for _ in range(2)))
    with pytest.raises(TypeError, match="size"):
        names["svgd_approx"].sample_node(names["a"], size=(2, 3))

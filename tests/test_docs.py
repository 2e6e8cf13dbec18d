"""What the pages say is so: quoted messages exist, links lead somewhere, code runs."""

import ast
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
        for attribute in re.findall(r"\bvi\.(\w+)", path.read_text(encoding="utf-8")):
            known = hasattr(vi, attribute) or name == "design.md"
            assert known, f"{name} mentions vi.{attribute}"


def code_of(page):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGES[page].read_text("utf-8"), re.M | re.S)
    return "\n".join(blocks)


@pytest.mark.slow
def test_code_of_the_page_on_using_a_fit_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(quick(code_of("using-a-fit.md")), names)
    assert names["approx"].steps == 200
    assert names["mcmc"].get_samples()["w"].shape == (2000, 2)
    assert (tmp_path / "fit.npz").exists()


@pytest.mark.slow
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


def test_code_of_the_quickstart_page_runs():
    names = {}
    exec(quick(code_of("quickstart.md")), names)
    assert names["approx"].steps == 400
    assert len(names["tracker"]["std"]) == 400
    plt.close("all")

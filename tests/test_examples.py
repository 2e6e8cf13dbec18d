"""The examples run, say what they found and save their pictures."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PNG = b"\x89PNG\r\n"


def run(script, output, *options):
    """Run an example as a user does; what it prints."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "MPLBACKEND": "Agg",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    command = [sys.executable, ROOT / "examples" / script, "--output", output, *options]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_pictures(output, text, names):
    assert {path.name for path in output.iterdir()} == names
    for name in names:
        assert (output / name).read_bytes().startswith(PNG)
        assert f"saved {output / name}" in text


QUICKSTART_PICTURES = {
    "posterior.png",
    "convergence.png",
    "track.png",
    "track_refined.png",
    "comparison.png",
}


def test_quickstart_with_few_steps(tmp_path):
    output = tmp_path / "new" / "folder"
    check_pictures(output, run("quickstart.py", output, "--quick"), QUICKSTART_PICTURES)


@pytest.mark.slow
def test_quickstart(tmp_path):
    text = run("quickstart.py", tmp_path)
    check_pictures(tmp_path, text, QUICKSTART_PICTURES)
    assert "MeanField(sites=[x], ndim=1, steps=10000" in text
    for diff in ("relative", "absolute"):
        stopped = re.search(rf"{diff}: Convergence achieved at (\d+)", text)
        assert int(stopped[1]) < 10_000
    assert "120,000 losses" in text
    numbers = r": mean (\d.\d+), sd (\d.\d+), (\d+)% above"
    nuts, advi = (re.search(name + " *" + numbers, text) for name in ("NUTS", "ADVI"))
    assert [float(x) for x in advi.groups()] == pytest.approx([0.5, 0.1, 100], abs=0.005)
    assert float(nuts[1]) == pytest.approx(0.34, abs=0.1)
    assert float(nuts[2]) == pytest.approx(0.335, abs=0.06)


def moments_of(text, node):
    """Means and standard deviations of NUTS, ADVI and exact, in a line of the example's table."""
    numbers = r"\s+".join([r"(-?\d\.\d+) \+-\s*(\d\.\d+)"] * 3)
    found = re.search(rf"^{re.escape(node)}\s+{numbers}$", text, re.MULTILINE)
    return [float(x) for x in found.groups()]


@pytest.mark.slow
def test_trace_to_empirical_with_few_steps(tmp_path):
    text = run("trace_to_empirical.py", tmp_path, "--quick")
    check_pictures(tmp_path, text, {"trace_to_empirical.png"})
    assert "Empirical(sites=[x], ndim=1, rows=1600, status='finished')" in text
    draws = re.findall(r"(?:one draw of x\*\*2|another): +(\d\.\d+)", text)
    assert len(set(draws)) == 2


@pytest.mark.slow
def test_trace_to_empirical(tmp_path):
    text = run("trace_to_empirical.py", tmp_path)
    check_pictures(tmp_path, text, {"trace_to_empirical.png"})
    for node, mean, sd in (("x**2", 0.228, 0.114), ("sin(x)", 0.323, 0.321)):
        nuts_mean, nuts_sd, _, _, *exact = moments_of(text, node)
        assert exact == pytest.approx([mean, sd], abs=0.001)
        assert nuts_mean == pytest.approx(mean, abs=0.05)  # its chains change modes rarely
        assert nuts_sd == pytest.approx(sd, abs=0.02)
    _, _, advi_mean, advi_sd, *_ = moments_of(text, "x**2")
    # one mode: x ~ N(0.5, 0.1), so x**2 has mean 0.26 and variance 2 0.1**4 + 4 0.5**2 0.1**2
    assert [advi_mean, advi_sd] == pytest.approx([0.26, 0.101], abs=0.005)


def warm_start_rows(text):
    """Lines of the table by name: costs, effective draws, rates, r-hat, differences."""
    numbers = r"\s+".join([r"(\d+\.?\d*)"] * 9)
    rows = re.findall(rf"^(.*NUTS, .*|to_nuts, .*\S) +{numbers} sd +(\d+)%$", text, re.MULTILINE)
    return {name.strip(): [float(x) for x in found] for name, *found in rows}


@pytest.mark.slow
def test_nuts_warm_start_with_few_steps(tmp_path):
    text = run("nuts_warm_start.py", tmp_path, "--quick")
    check_pictures(tmp_path, text, {"nuts_warm_start.png"})
    rows = warm_start_rows(text)
    assert list(rows) == ["dense NUTS, warm-up 100", "to_nuts, warm-up 50"]
    fit, warmup, sampling, total, *_ = rows["to_nuts, warm-up 50"]
    assert fit == 2
    assert total == pytest.approx(fit + warmup + sampling, abs=0.11)


@pytest.mark.slow
def test_nuts_warm_start(tmp_path):
    text = run("nuts_warm_start.py", tmp_path)
    check_pictures(tmp_path, text, {"nuts_warm_start.png"})
    rows = warm_start_rows(text)
    assert len(rows) == 5
    fit, warmup, _, total, _, _, rate, *_ = rows["to_nuts, warm-up 100"]
    _, long_warmup, _, long_total, _, _, long_rate, *_ = rows["dense NUTS, warm-up 1000"]
    assert fit + warmup < 0.2 * long_warmup
    assert total < 0.5 * long_total
    assert rate > 2 * long_rate  # effective draws per gradient, the fit's included
    assert rate == max(row[6] for row in rows.values())
    for name, (*_, rhat, mean, sd) in rows.items():
        assert rhat < 1.01, name
        assert mean < 0.15, name  # of four thousand draws each, 31 parameters
        assert sd < 15, name


@pytest.mark.slow
def test_real_data(tmp_path):
    text = run("real_data.py", tmp_path)
    check_pictures(tmp_path, text, {"real_data.png"})
    rows = re.findall(r"^(\w+)\s+" + r"\s+".join([r"(-?\d+\.\d+)"] * 6) + "$", text, re.MULTILINE)
    assert [row[0] for row in rows] == [
        *("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6", "sigma")
    ]
    for name, *numbers in rows:
        nuts_mean, nuts_sd, full_mean, full_sd, field_mean, field_sd = map(float, numbers)
        assert full_mean == pytest.approx(nuts_mean, abs=0.25 * nuts_sd + 0.01), name
        assert full_sd == pytest.approx(nuts_sd, rel=0.12, abs=0.002), name
        assert field_mean == pytest.approx(nuts_mean, abs=0.5 * nuts_sd + 0.01), name
        assert field_sd < nuts_sd + 0.004, name  # mean-field cannot be wider


def svgd_rows(text):
    """Mean, standard deviation and share of the smaller mode by name."""
    rows = re.findall(r"^(.*\S) +mean +(-?\d\.\d+), sd (\d\.\d+), (\d\.\d+) in", text, re.MULTILINE)
    return {name: [float(x) for x in found] for name, *found in rows}


@pytest.mark.slow
def test_svgd_mixture_with_few_steps(tmp_path):
    text = run("svgd_mixture.py", tmp_path, "--quick")
    check_pictures(tmp_path, text, {"svgd_mixture.png"})
    assert "Empirical(sites=[x], ndim=1, rows=200, steps=30, status='finished')" in text
    rows = svgd_rows(text)
    assert len(rows) == 7
    assert rows["exact"] == [0.34, 0.335, 0.2]


@pytest.mark.slow
def test_svgd_mixture(tmp_path):
    text = run("svgd_mixture.py", tmp_path)
    check_pictures(tmp_path, text, {"svgd_mixture.png"})
    rows = svgd_rows(text)
    assert rows["NUTS"] == pytest.approx([0.34, 0.335, 0.2], abs=0.1)
    assert rows["ADVI"] == pytest.approx([0.5, 0.1, 0.0], abs=0.005)
    for jitter, share in ((1, 0.39), (0.25, 0.16)):  # of the start on that side of 0.0827
        *_, start = rows[f"SVGD, jitter {jitter}, start"]
        mean, _, end = rows[f"SVGD, jitter {jitter}, 300 steps"]
        assert start == pytest.approx(share, abs=0.05)
        assert end == pytest.approx(start, abs=0.02)  # few change modes
        assert mean == pytest.approx(0.5 - 0.8 * end, abs=0.02)


def accuracies(text):
    """Steps, train and test accuracy of each line of the example."""
    found = re.findall(r"after (\d+) steps: train (\d\.\d+), test (\d\.\d+)", text)
    return [(int(n), float(train), float(test)) for n, train, test in found]


@pytest.mark.slow
def test_iris_svgd_with_few_steps(tmp_path):
    text = run("iris_svgd.py", tmp_path, "--quick")
    check_pictures(tmp_path, text, {"iris_svgd.png"})
    assert [n for n, _, _ in accuracies(text)] == [20, 60]  # one tracker for both fits
    assert "ndim=15, rows=500, steps=40, status='finished')" in text


@pytest.mark.slow
def test_iris_svgd(tmp_path):
    text = run("iris_svgd.py", tmp_path)
    check_pictures(tmp_path, text, {"iris_svgd.png"})
    _, (steps, train, test) = accuracies(text)
    assert steps == 500
    assert train > 0.95
    assert test > 0.9
    assert float(re.search(r"test accuracy (\d\.\d+)", text)[1]) > 0.9


def test_out_of_core_with_few_rows(tmp_path):
    text = run("out_of_core.py", tmp_path, "--rows", "50000", "--steps", "500")
    assert "4,096 of 50,000 rows" in text
    assert "500 steps in" in text
    means = re.findall(r"^ +\d +(-?\d\.\d+) +(-?\d\.\d+) +\d\.\d+$", text, re.MULTILINE)
    assert len(means) == 10
    for true, mean in means:
        assert float(mean) == pytest.approx(float(true), abs=0.08)  # six sd or so


@pytest.mark.slow
def test_minibatch(tmp_path):
    text = run("minibatch.py", tmp_path)
    check_pictures(tmp_path, text, {"minibatch.png"})
    assert "10 steps in" in text  # the fit on full data was stopped
    assert "steps=10000" in text
    assert float(re.search(r"off by at most (\d\.\d+) posterior sd", text)[1]) < 1
    assert "the full data again: (40000, 100)" in text
    for shape in ("(2, 20, 30, 40, 10)", "(2, 20, 20, 40, 50)", "(2, 20, 20, 40, 10)"):
        assert shape in text

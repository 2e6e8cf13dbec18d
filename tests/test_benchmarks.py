"""What the benchmarks are run with: markers, failures of peers, the runner. Nothing is measured."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in ("run", "_measure", "_peers"):
        sys.modules.pop(name, None)


def test_sections_and_markers_are_the_same():
    import run

    page = PAGE.read_text(encoding="utf-8")
    begun, ended = (re.findall(f"<!-- {word} (.+) -->", page) for word in ("begin", "end"))
    assert begun == ended
    assert len(set(begun)) == len(begun)
    written = [s.name for s in run.SECTIONS if not s.elsewhere]
    assert sorted(written) == sorted(begun)


def test_every_section_has_its_script_and_function():
    import run

    for section in run.SECTIONS:
        script, *rest = section.command.split()
        source = (FOLDER / script).read_text(encoding="utf-8")
        if rest and not rest[0].startswith("-"):
            assert f"def {rest[0]}(" in source, section


def test_every_script_has_a_section():
    import run

    scripts = {section.command.split()[0] for section in run.SECTIONS}
    assert {path.name for path in FOLDER.glob("[a-z]*.py")} - {"run.py"} <= scripts


def test_figures_of_other_pages_have_a_source():
    text = PAGE.read_text(encoding="utf-8")
    claims = text.partition("\n| page | words | section or script |\n")[2].splitlines()[1:]
    assert len(claims) > 10
    for line in claims:
        name, words, source = (cell.strip() for cell in line.strip("|").split("|"))
        page = ROOT / name if (ROOT / name).exists() else ROOT / "docs" / name
        assert words in " ".join(page.read_text(encoding="utf-8").split()), line
        if source.startswith("`"):
            assert (ROOT / source.strip("`")).exists(), line
        else:
            assert f"\n## {source}\n" in text, line


def test_publish_writes_between_the_markers_only(tmp_path, capsys):
    import _measure

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin a -->\nold\n<!-- end a -->\nafter\n<!-- begin b -->\n")
    _measure.publish("a", r"new \1", page=page)
    before, text, after = re.split("<!-- (?:begin|end) a -->", page.read_text())
    assert (before, after) == ("before\n", "\nafter\n<!-- begin b -->\n")
    assert text.startswith("\nnew \\1\n\nMeasured on ")
    assert "old" not in page.read_text()
    assert "new" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no markers for the section 'b'"):
        _measure.publish("b", "lost", page=page)


def test_machine_names_processor_and_versions():
    import _measure

    words = _measure.machine()
    assert _measure.processor() in words
    assert re.search(r"\d+ cores, Python 3\.\d+\.\d+, numpyro 0\.", words)


def rows_with(peer):
    """The table of a quick loop of ours and a peer."""
    import _measure

    found = _measure.rates(1, {"ours": (lambda: None, 5), "peer": (peer, 5)})
    return _measure.rate_rows(found, "ours")


def test_a_peer_that_fails_is_a_row_of_the_table():
    from _peers import Attempt

    calls = []

    def breaks_later():
        calls.append(None)
        if len(calls) == 2:
            raise RuntimeError("Traceback ...\nno such thing in /some/where/else.py | sorry\n")

    ours, theirs = rows_with(Attempt(lambda: breaks_later))
    assert ours[2] == "1.00"
    assert theirs == ["peer", "failed: no such thing in ... / sorry", "-"]
    _, theirs = rows_with(Attempt(lambda: 1 / 0))
    assert theirs == ["peer", "failed: division by zero", "-"]


def test_what_we_run_ourselves_is_raised():
    with pytest.raises(ZeroDivisionError):
        rows_with(lambda: 1 / 0)


@pytest.fixture
def peers(monkeypatch):
    """`_peers`, with this interpreter as theirs."""
    import _peers

    monkeypatch.setattr(_peers, "_environment", lambda: sys.executable)
    return _peers


def test_a_process_that_dies_says_why(peers, tmp_path):
    script = tmp_path / "peer.py"
    script.write_text("input(); print('ready', flush=True); input(); raise KeyError('no model')")
    attempt = peers.Attempt(lambda: peers.Peer(script))
    assert attempt.failure == ""
    attempt()
    assert attempt.failure == "failed: KeyError: 'no model'"
    attempt.close()


def test_a_peer_answers_each_line(peers, tmp_path):
    script = tmp_path / "peer.py"
    script.write_text("import sys\nfor line in sys.stdin: print(line[::-1].strip(), flush=True)")
    peer = peers.Peer(script)
    assert peer("abc") == "cba\n"
    peer.close()


def test_without_an_environment_the_table_says_so(monkeypatch):
    import _peers

    missing = _peers.NotInstalledError("pip: no route to some.host")
    monkeypatch.setattr(_peers, "_environment", lambda: missing)
    _, theirs = rows_with(_peers.Attempt(lambda: _peers.Peer("_pymc_sample.py")))
    assert theirs == ["peer", "not installed", "-"]
    assert _peers.versions("pymc") == "peers not installed"


def test_the_runner_goes_on_after_a_failure(monkeypatch, capfd, tmp_path):
    import run

    (tmp_path / "bad.py").write_text("print('begun')\nraise ValueError('it broke')")
    (tmp_path / "good.py").write_text("import sys; print('done', sys.argv[1])")
    sections = (run.Section("a bad one", "bad.py", 1), run.Section("good", "good.py well", 1))
    monkeypatch.setattr(run, "SECTIONS", sections)
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert run.main() == 1
    out = capfd.readouterr().out
    assert "done well" in out
    assert re.search(r"\| a bad one \| \d+ \| failed: ValueError: it broke \|", out)
    assert re.search(r"\| good \| \d+ \| ok \|", out)
    monkeypatch.setattr(sys, "argv", ["run.py", "good"])
    assert run.main() == 0


def test_choosing_sections():
    import run

    assert [s.name for s in run.chosen(["iris_particles", "mixture"])] == [
        "iris particles",
        "mixture",
    ]
    assert run.chosen([]) == [*run.SECTIONS]
    quick = {s.name for s in run.chosen([], quick=True)}
    assert "mixture" in quick
    assert not quick & {"accuracy", "accuracy_peers", "stopping"}
    with pytest.raises(KeyError, match=r"no section \['nothing'\]; there are peers, mixture"):
        run.chosen(["nothing"])

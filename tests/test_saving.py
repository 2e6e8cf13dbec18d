"""Approximations in files, pickles and copies; files that are damaged, or something else."""

import copy
import io
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import zoo

import numpyro_vi_ext as vi
from numpyro_vi_ext.families.gaussian import DenseGaussian

SCHOOLS = {"model_args": (zoo.ERRORS,), "model_kwargs": {"y": zoo.EFFECTS}}
PARAMS = {"model_args": (zoo.Y,)}


def other_model(n=2, name="x", prior=None):
    numpyro.sample(name, (prior or dist.Normal(0, 1)).expand([n]).to_event(1))


def fitted(method="advi", n=40):
    return vi.fit(zoo.eight_schools, n, method, **SCHOOLS, random_seed=1, progressbar=False)


def stopped():
    def stop(approx, losses, i):
        if i == 7:
            raise StopIteration("genug für heute ☺")

    return vi.fit(
        zoo.eight_schools, 50, **SCHOOLS, random_seed=1, progressbar=False, callbacks=[stop]
    )


def twice():
    inference = vi.FullRankADVI(zoo.eight_schools, **SCHOOLS, random_seed=jax.random.key(5))
    inference.fit(30, progressbar=False)
    inference.fit(10, progressbar=False)
    return inference.refine(5, progressbar=False)


def with_params():
    return vi.fit(zoo.params, 60, **PARAMS, random_seed=2, progressbar=False)


def from_draws():
    rng = np.random.default_rng(0)
    draws = {"mu": rng.normal(size=20), "tau": rng.gamma(2.0, size=20)}
    draws["theta"] = rng.normal(size=(20, 8))
    return vi.Empirical(draws, model=zoo.eight_schools, **SCHOOLS)


KINDS = {
    "mean_field": fitted,
    "full_rank": lambda: fitted("fullrank_advi"),
    "stopped": stopped,
    "twice": twice,
    "without_score": lambda: vi.fit(
        zoo.eight_schools, 5, **SCHOOLS, score=False, random_seed=1, progressbar=False
    ),
    "unfitted": lambda: vi.MeanField(zoo.eight_schools, **SCHOOLS),
    "unfitted_full_rank": lambda: vi.FullRank(zoo.eight_schools, **SCHOOLS),
    "params": with_params,
    "full_rank_with_params": lambda: vi.FullRank.from_approx(with_params()),
    "draws": from_draws,
    "particles": lambda: vi.Empirical(size=7, model=zoo.params, **PARAMS, random_seed=0),
    "one_row": lambda: vi.Empirical(size=1, model=zoo.params, **PARAMS, random_seed=0),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def arguments_of(approx):
    return PARAMS if approx.model.fn is zoo.params else SCHOOLS


def assert_equal(found, approx):
    assert type(found) is type(approx)
    assert repr(found) == repr(approx)
    assert found.params.keys() == approx.params.keys()
    for name, value in approx.params.items():
        assert found.params[name].dtype == value.dtype
        np.testing.assert_array_equal(found.params[name], value)
    for name, value in approx.model_params.items():
        np.testing.assert_array_equal(found.model_params[name], value)
    assert found.hist.dtype == approx.hist.dtype
    np.testing.assert_array_equal(found.hist, approx.hist)
    assert (found.steps, found.status, found.message) == (
        approx.steps,
        approx.status,
        approx.message,
    )
    assert found.facts[1:] == approx.facts[1:]  # all but the losses
    draws = approx.sample_dict(9, random_seed=3)
    for name, value in found.sample_dict(9, random_seed=3).items():
        np.testing.assert_array_equal(value, draws[name])


# -- there and back


@each_kind
@pytest.mark.parametrize("as_path", [str, Path, os.fsencode])
def test_save_and_load(kind, as_path, tmp_path):
    approx = KINDS[kind]()
    path = as_path(tmp_path / "fit.any ending")
    approx.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["fit.any ending"]
    found = vi.load(path, approx.model.fn, **arguments_of(approx))
    assert_equal(found, approx)
    assert_equal(vi.load(path, approx.model), approx)  # bound to its arguments already
    found.save(path)  # and once more, over itself
    assert_equal(vi.load(path, approx.model), approx)


def test_what_was_saved_goes_on(tmp_path):
    """A loaded q is like the one that was saved: fitted on with the same seed, it ends equal."""
    approx = fitted()
    approx.save(tmp_path / "fit")
    found = vi.load(tmp_path / "fit", zoo.eight_schools, **SCHOOLS)
    again = [vi.KLqp(a, random_seed=3).fit(20, progressbar=False) for a in (approx, found)]
    assert_equal(*again)
    assert found.elbo(20, 0) == approx.elbo(20, 0)
    assert_equal(vi.Empirical.from_approx(found, 5, random_seed=0), from_approx(approx))


def from_approx(approx):
    return vi.Empirical.from_approx(approx, 5, random_seed=0)


def test_other_data_of_the_same_shape(tmp_path):
    """The file has q; the data come with the model."""
    fitted().save(tmp_path / "fit")
    other = {"model_args": (zoo.ERRORS,), "model_kwargs": {"y": zoo.EFFECTS + 1}}
    found = vi.load(tmp_path / "fit", zoo.eight_schools, **other)
    observed = found.sample_node("y")
    np.testing.assert_allclose(observed, zoo.EFFECTS + 1)


IN_A_NEW_PROCESS = """
    import pickle, sys
    import jax, numpy as np
    import numpyro_vi_ext as vi, zoo

    models = {
        "mean_field": (zoo.eight_schools, (zoo.ERRORS,), {"y": zoo.EFFECTS}),
        "full_rank": (zoo.eight_schools, (zoo.ERRORS,), {"y": zoo.EFFECTS}),
        "draws": (zoo.eight_schools, (zoo.ERRORS,), {"y": zoo.EFFECTS}),
        "params": (zoo.params, (zoo.Y,), {}),
    }
    result = {}
    for name, (model, args, kwargs) in models.items():
        loaded = vi.load(f"{name}.npz", model, model_args=args, model_kwargs=kwargs)
        with open(f"{name}.pickle", "rb") as file:
            unpickled = pickle.load(file)
        result[name] = [
            (repr(a), a.message, a.hist, jax.device_get(a.sample_dict(9, random_seed=3)), a)
            for a in (loaded, unpickled)
        ]
    with open("result.pickle", "wb") as file:
        pickle.dump(result, file)
"""


def test_new_process(tmp_path):
    """Loaded and unpickled there, drawn from, pickled there and unpickled here."""
    names = ("mean_field", "full_rank", "draws", "params")
    approximations = {name: KINDS[name]() for name in names}
    for name, approx in approximations.items():
        approx.save(tmp_path / f"{name}.npz")
        (tmp_path / f"{name}.pickle").write_bytes(pickle.dumps(approx))
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(IN_A_NEW_PROCESS)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, _search_path()))},
        check=True,
    )
    result = pickle.loads((tmp_path / "result.pickle").read_bytes())
    for name, approx in approximations.items():
        draws = approx.sample_dict(9, random_seed=3)
        for text, message, hist, values, again in result[name]:
            assert (text, message) == (repr(approx), approx.message)
            np.testing.assert_array_equal(hist, approx.hist)
            assert values.keys() == draws.keys()
            for site, value in values.items():
                np.testing.assert_array_equal(value, draws[site])
            assert_equal(again, approx)


def _search_path():
    """Where this package and the models of the tests are."""
    return Path(vi.__file__).parents[1], Path(__file__).parent


# -- precision


@pytest.mark.parametrize("kind", ["mean_field", "full_rank", "draws", "params"])
def test_single_precision_in_a_session_of_double_precision(kind, tmp_path):
    approx = KINDS[kind]()
    approx.save(tmp_path / "fit")
    with jax.enable_x64(True):
        found = vi.load(tmp_path / "fit", approx.model.fn, **arguments_of(approx))
        for name, value in approx.params.items():
            assert found.params[name].dtype == np.float64
            np.testing.assert_array_equal(found.params[name], value)
        assert found.mean.dtype == found.cov.dtype == np.float64
        assert {v.dtype for v in found.sample_dict(3).values()} == {np.dtype(np.float64)}
        assert found.point.theta.dtype == np.float64


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mean_field", "full_rank", "draws", "params"])
def test_double_precision_in_a_session_of_single_precision(kind, tmp_path):
    with jax.enable_x64(True):
        approx = KINDS[kind]()
        params = approx.params
        approx.save(tmp_path / "fit")
        assert_equal(vi.load(tmp_path / "fit", approx.model), approx)
    found = vi.load(tmp_path / "fit", approx.model.fn, **arguments_of(approx))
    for name, value in params.items():
        assert value.dtype == np.float64
        assert found.params[name].dtype == np.float32
        np.testing.assert_array_equal(found.params[name], value.astype(np.float32))
    assert {v.dtype for v in found.sample_dict(3).values()} == {np.dtype(np.float32)}


# -- writing


def test_an_existing_file_is_replaced(tmp_path):
    path = tmp_path / "fit"
    path.write_text("something else, and longer than " + "x" * 10_000)
    approx = fitted()
    approx.save(path)
    assert_equal(vi.load(path, approx.model), approx)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "target").write_text("old")
    try:
        (tmp_path / "link").symlink_to(tmp_path / "folder" / "target")
    except OSError:
        pytest.skip("no links here")
    approx = fitted()
    approx.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert_equal(vi.load(tmp_path / "folder" / "target", approx.model), approx)


def _half_of_the_file(file, **arrays):
    whole = io.BytesIO()
    np.savez(whole, **arrays)
    file.write(whole.getvalue()[:100])
    raise OSError(28, "No space left on device")


def _interrupted(*args, **kwargs):
    raise KeyboardInterrupt


def _refused(*args, **kwargs):
    raise PermissionError(13, "Permission denied")


FAILURES = {
    "disk full": ("numpyro_vi_ext.saving.np", _half_of_the_file, OSError),
    "interrupted": ("numpyro_vi_ext.saving.os.fsync", _interrupted, KeyboardInterrupt),
    "not replaced": ("numpyro_vi_ext.saving.os.replace", _refused, PermissionError),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_all_or_nothing(failure, tmp_path, monkeypatch):
    path, approx = tmp_path / "fit", fitted()
    approx.save(path)
    before = path.read_bytes()
    name, replacement, error = FAILURES[failure]
    if failure == "disk full":

        class Numpy:
            """NumPy, but for one function; the test itself needs the real one."""

            savez = staticmethod(replacement)

            def __getattr__(self, name):
                return getattr(np, name)

        replacement = Numpy()
    for target in (path, tmp_path / "new"):
        other = vi.FullRank.from_approx(approx)
        with monkeypatch.context() as patch:
            patch.setattr(name, replacement)
            with pytest.raises(error):
                other.save(target)
        assert [p.name for p in tmp_path.iterdir()] == ["fit"]
        assert path.read_bytes() == before
    assert_equal(vi.load(path, approx.model), approx)


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(mask, tmp_path):
    approx, before = fitted(), os.umask(mask)
    try:
        approx.save(tmp_path / "fit")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "fit").stat().st_mode) == 0o666 & ~mask


def test_places_where_nothing_can_be_written(tmp_path):
    approx = fitted()
    with pytest.raises(FileNotFoundError):
        approx.save(tmp_path / "nowhere" / "fit")
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        approx.save(tmp_path)  # a folder
    with pytest.raises(TypeError):
        approx.save(3)
    assert list(tmp_path.iterdir()) == []
    assert [p for p in tmp_path.parent.iterdir() if p.name.startswith(f"{tmp_path.name}.")] == []


# -- files that are damaged, or something else

DAMAGED = "is not a saved approximation, or damaged: "


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A fit and its file, which is larger than what zipfile reads at once."""
    approx = fitted(n=1500)
    path = tmp_path_factory.mktemp("saved") / "fit"
    approx.save(path)
    return approx, path.read_bytes()


def load_bytes(content, approx, tmp_path):
    path = tmp_path / "changed"
    path.write_bytes(content)
    return vi.load(path, approx.model)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        vi.load(tmp_path / "nothing", zoo.eight_schools, **SCHOOLS)
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        vi.load(tmp_path, zoo.eight_schools, **SCHOOLS)
    with pytest.raises(TypeError):
        vi.load(3, zoo.eight_schools, **SCHOOLS)


def test_truncated(saved, tmp_path):
    approx, content = saved
    lengths = {*range(0, len(content), 151), *range(len(content) - 30, len(content)), 1, 3, 4, 5}
    for length in lengths:
        with pytest.raises(ValueError, match=f"changed' {DAMAGED}it is no npz archive, or not all"):
            load_bytes(content[:length], approx, tmp_path)


def png():
    return bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
        "1f15c4890000000d4944415478da63f8cf50000000040001f5d8a0e40000000049454e44ae426082"
    )


def npy(value, **options):
    file = io.BytesIO()
    np.save(file, value, **options)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def archive_of(text):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("header.npy", text)
    return file.getvalue()


SOMETHING_ELSE = {
    "empty": lambda: b"",
    "text": lambda: b"site,mean,sd\nmu,1.0,0.1\n",
    "png": png,
    "npy": lambda: npy(np.zeros(3)),
    "npy of objects": lambda: npy(np.array([None]), allow_pickle=True),
    "pickle": lambda: pickle.dumps({"mu": 1.0}),
    "npz": lambda: npz(mu=np.zeros(3)),
    "empty npz": npz,
    "npz with a header": lambda: npz(header=np.zeros(3), theta=np.zeros(0), losses=np.zeros(0)),
    "zip of text": lambda: archive_of("not an array"),
}


@pytest.mark.parametrize("content", SOMETHING_ELSE)
def test_something_else(content, saved, tmp_path):
    with pytest.raises(ValueError, match=f"changed' {DAMAGED}"):
        load_bytes(SOMETHING_ELSE[content](), saved[0], tmp_path)


class Bomb:
    """What writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("where", ["header", "theta", "losses", "q.mu", "q.rho", "more"])
def test_nothing_is_unpickled(where, saved, tmp_path):
    approx, content = saved
    mark = tmp_path / "mark"
    bomb = np.array([Bomb(mark)], object)
    changed = npz(**{**members(content), where: bomb})
    with pytest.raises(ValueError, match=f"{DAMAGED}.*allow_pickle"):
        load_bytes(changed, approx, tmp_path)
    for content in (pickle.dumps(Bomb(mark)), npy(bomb, allow_pickle=True)):
        with pytest.raises(ValueError, match=DAMAGED):
            load_bytes(content, approx, tmp_path)
    assert not mark.exists()
    with np.load(io.BytesIO(changed), allow_pickle=True) as archive:  # it would have gone off
        archive[where][0].close()
    assert mark.exists()


def members(content):
    with np.load(io.BytesIO(content)) as archive:
        return {name: archive[name] for name in archive.files}


def with_header(content, change):
    """The file with another header."""
    arrays = members(content)
    header = json.loads(arrays["header"].tobytes())
    changed = json.dumps(change(header)).encode()
    return npz(**{**arrays, "header": np.frombuffer(changed, np.uint8)})


def without(name):
    return lambda header: {k: v for k, v in header.items() if k != name}


def replaced(**items):
    return lambda header: {**header, **items}


def in_facts(change):
    return lambda header: {**header, "facts": change(header["facts"])}


def test_a_header_as_it_was(saved, tmp_path):
    """The helper for the tests below changes nothing else."""
    approx, content = saved
    assert_equal(load_bytes(with_header(content, dict), approx, tmp_path), approx)


@pytest.mark.parametrize("name", ["format", "version", "package", "kind", "sites", "facts"])
def test_header_without_a_part(name, saved, tmp_path):
    approx, content = saved
    with pytest.raises(ValueError, match=f"{DAMAGED}its {name} is None"):
        load_bytes(with_header(content, without(name)), approx, tmp_path)
    for wrong in (None, True, 1.5, [], {}, [1], {"a": 1}, -1):
        if (name, wrong) in (("sites", []), ("sites", [1]), ("facts", {}), ("facts", {"a": 1})):
            continue  # of the right type; see below
        with pytest.raises(ValueError, match=DAMAGED):
            load_bytes(with_header(content, replaced(**{name: wrong})), approx, tmp_path)


@pytest.mark.parametrize("name", ["status", "message", "step", "method", "seed"])
def test_header_with_wrong_facts(name, saved, tmp_path):
    approx, content = saved
    with pytest.raises(ValueError, match=f"{DAMAGED}its {name} is None"):
        load_bytes(with_header(content, in_facts(without(name))), approx, tmp_path)
    for wrong in (None, True, 1.5, [], {}):
        changed = with_header(content, in_facts(replaced(**{name: wrong})))
        with pytest.raises(ValueError, match=f"{DAMAGED}its {name} is {re.escape(repr(wrong))}"):
            load_bytes(changed, approx, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        in_facts(replaced(more=1)),
        in_facts(lambda facts: {}),
        replaced(sites=[1]),
        replaced(sites=[None]),
        replaced(sites=["mu"]),
        replaced(sites=[[]]),
        replaced(sites=[["mu"]]),
        replaced(sites=[["mu", [], []], ["tau", []]]),
        replaced(sites=[["mu", 3, 3]]),
        replaced(sites=[["mu", [1], [1], [1]]]),
        replaced(sites=[[["mu"], [], []]]),
        replaced(version=0),
        lambda header: [header],
        lambda header: "header",
        lambda header: None,
    ],
)
def test_header_with_other_content(change, saved, tmp_path):
    approx, content = saved
    with pytest.raises(ValueError, match=DAMAGED):
        load_bytes(with_header(content, change), approx, tmp_path)


@pytest.mark.parametrize("shapes", [[["a"], [[]]], [[None], [{}]], [[], []], [[1], [1]]])
def test_header_with_other_sites(shapes, saved, tmp_path):
    approx, content = saved
    changed = with_header(content, replaced(sites=[["mu", *shapes]]))
    with pytest.raises(
        ValueError, match=r"for a model with the latent sites.* \{'mu': .* but this"
    ):
        load_bytes(changed, approx, tmp_path)


def test_header_that_is_no_json(saved, tmp_path):
    approx, content = saved
    for text in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b"NaN"):
        changed = npz(**{**members(content), "header": np.frombuffer(text, np.uint8)})
        with pytest.raises(ValueError, match=DAMAGED):
            load_bytes(changed, approx, tmp_path)


def test_from_the_future(saved, tmp_path):
    """Whatever else a later version has in its files."""
    approx, content = saved
    later = replaced(version=3, package="9.1", kind=["new"], facts=None)
    text = r"was saved by numpyro_vi_ext 9\.1 in version 3 of the format; .* up to version 2"
    with pytest.raises(ValueError, match=text):
        load_bytes(with_header(content, later), approx, tmp_path)


def test_unknown_kind(saved, tmp_path):
    approx, content = saved
    with pytest.raises(ValueError, match="changed' has an unknown kind 'LowRank'"):
        load_bytes(with_header(content, replaced(kind="LowRank")), approx, tmp_path)
    with pytest.raises(ValueError, match="the saved arrays do not belong to this model"):
        load_bytes(with_header(content, replaced(kind="FullRank")), approx, tmp_path)


@pytest.mark.parametrize("name", ["header", "theta", "losses"])
def test_without_an_array(name, saved, tmp_path):
    approx, content = saved
    arrays = without(name)(members(content))
    with pytest.raises(ValueError, match=rf"{DAMAGED}it has no array \['{name}'\]"):
        load_bytes(npz(**arrays), approx, tmp_path)


@pytest.mark.parametrize("dtype", [complex, int, "U3", "M8[s]", bool, "V4"])
@pytest.mark.parametrize("name", ["q.mu", "theta", "losses"])
def test_arrays_of_wrong_dtype(name, dtype, saved, tmp_path):
    approx, content = saved
    arrays = members(content)
    changed = npz(**{**arrays, name: np.zeros(arrays[name].shape, dtype)})
    with pytest.raises(ValueError, match=f"{DAMAGED}losses of shape .*, arrays of"):
        load_bytes(changed, approx, tmp_path)


SHAPES = {
    "mean_field": {
        "q.mu": [(), (9,), (1,), (10, 1), (0,)],
        "q.rho": [(), (9,), (1,), (1, 10), (10, 10)],
        "theta": [(), (1,), (0, 0)],
        "q.more": [(10,)],
    },
    "full_rank": {
        "q.mu": [(9,), (1,)],
        "q.raw": [(), (10,), (10, 9), (11, 10), (9, 9), (1, 1), (10, 10, 1), (1, 10, 10), (55,)],
    },
    "draws": {"q.histogram": [(), (10,), (0, 10), (5, 9), (5, 10, 10), (1, 5, 10)]},
    "params": {"theta": [(), (0,), (1, 1), (100,)]},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_arrays_of_wrong_shape(kind, tmp_path):
    approx = KINDS[kind]()
    approx.save(tmp_path / "fit")
    content = (tmp_path / "fit").read_bytes()
    for name, shapes in SHAPES[kind].items():
        for shape in shapes:
            changed = npz(**{**members(content), name: np.zeros(shape, np.float32)})
            text = "the saved arrays do not belong to this model: expected those of a"
            with pytest.raises(ValueError, match=text):
                load_bytes(changed, approx, tmp_path)
        left = without(name)(members(content))
        if name in members(content) and name != "theta":
            with pytest.raises(ValueError, match=text):
                load_bytes(npz(**left), approx, tmp_path)


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_losses_of_wrong_shape(shape, saved, tmp_path):
    approx, content = saved
    changed = npz(**{**members(content), "losses": np.zeros(shape)})
    with pytest.raises(ValueError, match=rf"{DAMAGED}losses of shape {re.escape(str(shape))}"):
        load_bytes(changed, approx, tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"'shape': (1500,)", b"'shape': (1000,)"),  # the history would be shorter,
        (b"'descr': '<f8'", b"'descr': '<f2'"),  # or of other numbers
    ],
)
def test_damage_within_what_describes_an_array(old, new, saved, tmp_path):
    """NumPy reads on without looking at the checksum."""
    approx, content = saved
    assert content.count(old) == 1
    with pytest.raises(ValueError, match=f"{DAMAGED}the checksum of 'losses.npy' is wrong"):
        load_bytes(content.replace(old, new), approx, tmp_path)


def test_random_damage(saved, tmp_path):
    """A damaged file is refused, or the damage is where it does not matter."""
    approx, content = saved
    rng = np.random.default_rng(0)
    starts = [found.start() for found in re.finditer(b"PK|NUMPY", content)]
    refused = 0
    for i in range(300):
        changed = bytearray(content)
        for _ in range(1 + i % 3):  # anywhere, or near what holds the file together
            near = rng.choice(starts) + rng.integers(80) if i % 2 else rng.integers(len(content))
            changed[min(near, len(content) - 1)] ^= rng.integers(1, 256)
        try:
            found = load_bytes(bytes(changed), approx, tmp_path)
        except ValueError:
            refused += 1
        else:
            assert repr(found) == repr(approx)
            assert found.facts[1:] == approx.facts[1:]
            np.testing.assert_array_equal(found.hist, approx.hist)
            for name, value in approx.params.items():
                np.testing.assert_array_equal(found.params[name], value)
    assert 200 < refused < 300


# -- other models


def test_other_sites(tmp_path):
    approx = vi.MeanField(other_model)
    approx.save(tmp_path / "fit")
    text = r"was saved for a model with the latent sites.* \{'x': \(\(2,\), \(2,\)\)\}, but this"
    with pytest.raises(ValueError, match=text + r".* has \{'x': \(\(3,\), \(3,\)\)\}"):
        vi.load(tmp_path / "fit", other_model, model_args=(3,))
    with pytest.raises(ValueError, match=text + r".* has \{'z': \(\(2,\), \(2,\)\)\}"):
        vi.load(tmp_path / "fit", other_model, model_kwargs={"name": "z"})
    with pytest.raises(ValueError, match=text + ".* has .*'tau'"):
        vi.load(tmp_path / "fit", zoo.eight_schools, **SCHOOLS)


def test_sites_of_another_unconstrained_shape(tmp_path):
    """A simplex of three has two unconstrained coordinates."""

    def simplex():
        numpyro.sample("x", dist.Dirichlet(np.ones(3)))

    vi.MeanField(simplex).save(tmp_path / "fit")
    text = r"\{'x': \(\(3,\), \(2,\)\)\}, but .* \{'x': \(\(3,\), \(3,\)\)\}"
    with pytest.raises(ValueError, match=text):
        vi.load(tmp_path / "fit", other_model, model_args=(3,))


def test_sites_in_another_order(tmp_path):
    def forwards():
        numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("b", dist.Normal(0, 1))

    def backwards():
        numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("a", dist.Normal(0, 1))

    vi.MeanField(forwards).save(tmp_path / "fit")
    with pytest.raises(ValueError, match=r"\{'a': .*, 'b': .*\}, but .* \{'b': .*, 'a': "):
        vi.load(tmp_path / "fit", backwards)


def test_the_model_s_own_errors(tmp_path):
    fitted().save(tmp_path / "fit")
    with pytest.raises(TypeError, match="model must be a NumPyro callable or a Model, got str"):
        vi.load(tmp_path / "fit", "eight_schools")
    with pytest.raises(TypeError, match="bound to its arguments already"):
        vi.load(tmp_path / "fit", vi.Model(zoo.eight_schools, zoo.ERRORS), model_args=(1,))


# -- pickles and copies


def with_pickle(protocol):
    return lambda approx: pickle.loads(pickle.dumps(approx, protocol))


def with_cloudpickle(approx):
    cloudpickle = pytest.importorskip("cloudpickle")
    return pickle.loads(cloudpickle.dumps(approx))


WAYS = {
    "pickle": with_pickle(pickle.HIGHEST_PROTOCOL),
    "pickle of protocol 2": with_pickle(2),
    "cloudpickle": with_cloudpickle,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@each_kind
@pytest.mark.parametrize("way", WAYS)
def test_pickles_and_copies(kind, way):
    approx = KINDS[kind]()
    found = WAYS[way](approx)
    assert found is not approx
    assert_equal(found, approx)
    assert found.model.latents == approx.model.latents


def test_cloudpickle_of_a_model_that_cannot_be_imported():
    cloudpickle = pytest.importorskip("cloudpickle")

    def local(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    approx = vi.fit(local, 20, model_args=(2.0,), random_seed=0, progressbar=False)
    with pytest.raises((pickle.PicklingError, AttributeError), match="local"):
        pickle.dumps(approx)
    assert_equal(pickle.loads(cloudpickle.dumps(approx)), approx)


def test_pickles_of_models():
    model = vi.Model(zoo.eight_schools, zoo.ERRORS, y=zoo.EFFECTS)
    z = np.linspace(-1, 1, model.ndim)
    for found in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        assert repr(found) == repr(model)
        assert found.latents == model.latents
        np.testing.assert_array_equal(found.log_density(z), model.log_density(z))
        np.testing.assert_array_equal(found.named_data["y"], zoo.EFFECTS)
    other = pickle.loads(pickle.dumps(model.replace(y=zoo.EFFECTS + 1)))
    assert other.log_density(z) != model.log_density(z)


def test_a_list_of_approximations():
    """What belongs together stays together: one model for both."""
    approx = fitted()
    pair = pickle.loads(pickle.dumps([approx, vi.FullRank.from_approx(approx)]))
    assert pair[0].model is pair[1].model
    assert isinstance(pair[1].point.q, DenseGaussian)


class Changing:
    """A model that is not the same when it is unpickled."""

    size = 2

    def __call__(self):
        numpyro.sample("x", dist.Normal(0, 1).expand([self.size]).to_event(1))


def test_pickle_of_a_model_that_has_changed(monkeypatch):
    content = pickle.dumps(vi.MeanField(Changing()))
    assert pickle.loads(content).ndim == 2
    monkeypatch.setattr(Changing, "size", 3)
    with pytest.raises(ValueError, match=r"\{'x': \(\(2,\), \(2,\)\)\}, but .* \(3,\)\)"):
        pickle.loads(content)


def test_from_the_past(saved, tmp_path):
    """The first version of the format knew of fewer facts."""
    approx, content = saved

    def first(header):
        names = ("status", "message", "step", "method", "seed")
        facts = {name: header["facts"][name] for name in names}
        return {**header, "version": 1, "facts": facts}

    loaded = load_bytes(with_header(content, first), approx, tmp_path)
    assert loaded.facts[1:] == (*approx.facts[1:6], "", "", "", (), 0)
    np.testing.assert_array_equal(loaded.mean, approx.mean)

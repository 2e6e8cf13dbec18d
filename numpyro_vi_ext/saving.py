"""Approximations as files: named arrays and a header of plain text, nothing that is executed."""

import dataclasses
import json
import os
import secrets
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.families.base import Family
from numpyro_vi_ext.layout import Layout

FORMAT, VERSION = "numpyro_vi_ext.Approximation", 2
_HEADER, _THETA, _LOSSES, _PARAM = "header", "theta", "losses", "q."
_IDENTITY = {"format": str, "version": int, "package": str}  # of all versions
_CONTENTS = {"kind": str, "sites": list, "facts": dict}
_FACTS_1 = {"status": str, "message": str, "step": int, "method": str, "seed": int | str}
_FACTS = {**_FACTS_1, "origin": str, "warmup": str, "motion": str, "optima": list, "skipped": int}

Path = str | os.PathLike[str]


class Saved(NamedTuple):
    """What is in a file."""

    header: dict[str, Any]
    params: dict[str, np.ndarray]  # fields of the family
    theta: np.ndarray
    losses: np.ndarray

    def point(self, family: type[Family], layout: Layout, theta: Any) -> Point:
        """The saved q, for a model with this layout and with params like `theta`.

        Raises
        ------
        ValueError
            If it does not belong to such a model.
        """
        check_sites(self.header["sites"], layout)
        dtype, q, flat = jnp.result_type(float), None, (layout.ndim,)
        try:
            q = family(**{k: jnp.asarray(v, dtype) for k, v in self.params.items()})
            drawn = jax.eval_shape(q.draw, jax.random.key(0))
            fits = drawn.shape == q.mean().shape == q.std().shape == flat
        except (TypeError, ValueError, IndexError, AttributeError):
            fits = False
        if not (fits and self.theta.shape == theta.shape):
            raise ValueError(
                "the saved arrays do not belong to this model: expected those of a "
                f"{family.__name__} of {layout.ndim} dimensions and {theta.size} params, got "
                f"{ {k: v.shape for k, v in self.params.items()} } and {self.theta.shape}"
            )
        return Point(q, jnp.asarray(self.theta, dtype))


def write(path: Path, kind: str, layout: Layout, point: Point, facts: Any) -> None:
    """Save an approximation in one piece or not at all.

    Parameters
    ----------
    path : str or path
        Replaced if it exists.
    kind : str
        Name of the kind of approximation.
    layout, point
        Its sites and q.
    facts : NamedTuple
        How it came about: plain values, and `losses`, a tuple of arrays.
    """
    told = {name: value for name, value in facts._asdict().items() if name != "losses"}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "package": version("numpyro-vi-ext"),
        "kind": kind,
        "sites": sites_of(layout),
        "facts": told,
    }
    arrays = {
        _HEADER: np.frombuffer(json.dumps(header).encode(), np.uint8),
        _THETA: np.asarray(point.theta),
        _LOSSES: np.concatenate([np.zeros(0), *facts.losses]),
    }
    for field in dataclasses.fields(point.q):  # type: ignore
        arrays[_PARAM + field.name] = np.asarray(getattr(point.q, field.name))
    _write_atomically(os.path.realpath(os.fsdecode(path)), arrays)


def read(path: Path) -> Saved:
    """What is in a file, checked to be of this format.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is truncated, of another kind, or of a later version of the format.
    """
    name = os.fspath(path)
    with open(name, "rb") as file:
        try:
            arrays = _arrays(file)
            header = json.loads(arrays.pop(_HEADER).tobytes())
            _check_types({"header": header}, {"header": dict})
            _check_types(header, _IDENTITY)
            if header["format"] != FORMAT or header["version"] < 1:
                raise ValueError(f"its format is {header['format']!r} {header['version']}")
            if header["version"] <= VERSION:
                return _saved(header, arrays)
        except Exception as error:  # the ways in which a damaged file fails have no end
            raise ValueError(
                f"{name!r} is not a saved approximation, or damaged: {error}"
            ) from error
    raise ValueError(
        f"{name!r} was saved by numpyro_vi_ext {header['package']} in version "
        f"{header['version']} of the format; this one reads up to version {VERSION}"
    )


def _arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no npz archive, or not all of one")
    with zipfile.ZipFile(file) as archive:
        # np.load reads no further than the shape in a member says, where no checksum is looked at.
        bad = archive.testzip()
    if bad is not None:
        raise ValueError(f"the checksum of {bad!r} is wrong")
    file.seek(0)
    with np.load(file, allow_pickle=False) as members:
        missing = {_HEADER, _THETA, _LOSSES} - {*members.files}
        if missing:
            raise ValueError(f"it has no array {sorted(missing)}")
        return {name: members[name] for name in members.files}


def _saved(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Saved:
    _check_types(header, _CONTENTS)
    facts, known = header["facts"], _FACTS_1 if header["version"] == 1 else _FACTS
    _check_types(facts, known)
    if facts.keys() != known.keys():
        raise ValueError(f"its facts are {facts}")
    if "optima" in facts:
        facts["optima"] = tuple(map(float, facts["optima"]))
    for site, *shapes in header["sites"]:
        if [type(site), *map(type, shapes)] != [str, list, list]:
            raise ValueError(f"one of its sites is {[site, *shapes]}")
    theta, losses = arrays.pop(_THETA), arrays.pop(_LOSSES)
    params = {k.removeprefix(_PARAM): v for k, v in arrays.items() if k.startswith(_PARAM)}
    dtypes = {array.dtype for array in (theta, losses, *params.values())}
    if losses.ndim != 1 or any(dtype.kind != "f" for dtype in dtypes):
        raise ValueError(f"losses of shape {losses.shape}, arrays of {[*map(str, dtypes)]}")
    return Saved(header, params, theta, losses)


def _check_types(given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, kind in expected.items():
        value = given.get(name)
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ValueError(f"its {name} is {value!r}")


def sites_of(layout: Layout) -> list[Any]:
    """Names and shapes of the latent sites, in plain lists."""
    return [[s.name, list(s.shape), list(s.unconstrained_shape)] for s in layout.latents]


def check_sites(saved: list[Any], layout: Layout) -> None:
    """Check that the latent sites are those that were saved.

    Raises
    ------
    ValueError
        If they are not.
    """
    now = sites_of(layout)
    if saved != now:
        before, after = ({s[0]: tuple(map(tuple, s[1:])) for s in sites} for sites in (saved, now))
        raise ValueError(
            "the approximation was saved for a model with the latent sites, with their shapes in "
            f"the model's and in unconstrained space, {before}, but this model, with these "
            f"arguments, has {after}"
        )


def _write_atomically(path: str, arrays: dict[str, np.ndarray]) -> None:
    unfinished = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        with open(unfinished, "xb") as file:
            np.savez(file, **arrays)  # type: ignore
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        if os.path.exists(unfinished):
            os.remove(unfinished)
        raise

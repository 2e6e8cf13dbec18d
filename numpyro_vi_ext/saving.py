"""Approximations as files: named arrays and a header of plain text, nothing that is executed."""

import dataclasses
import json
import os
import secrets
import struct
import zipfile
import zlib
from importlib.metadata import version
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.families.base import Family
from numpyro_vi_ext.layout import Layout

FORMAT, VERSION = "numpyro_vi_ext.Approximation", 1
_HEADER, _THETA, _LOSSES, _PARAM = "header", "theta", "losses", "q."
_UNREADABLE = (
    ValueError,
    KeyError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)

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
        dtype, q = jnp.result_type(float), None
        try:
            q = family(**{k: jnp.asarray(v, dtype) for k, v in self.params.items()})
            fits = q.mean().shape == q.std().shape == (layout.ndim,)
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
    _write_atomically(os.path.realpath(path), arrays)


def read(path: Path) -> Saved:
    """What is in a file, checked to be of this format.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is truncated, of another kind, or of a later version of the format.
    """
    with open(path, "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            header = json.loads(arrays.pop(_HEADER).tobytes())
            theta, losses = arrays.pop(_THETA), arrays.pop(_LOSSES)
            if header["format"] != FORMAT:
                raise ValueError(f"its format is {header['format']!r}")
            known = header["version"] <= VERSION
        except (*_UNREADABLE, AttributeError, TypeError) as error:
            raise ValueError(
                f"{os.fspath(path)!r} is not a saved approximation, or damaged: {error}"
            ) from error
    if not known:
        raise ValueError(
            f"{os.fspath(path)!r} was saved by numpyro_vi_ext {header['package']} in version "
            f"{header['version']} of the format; this one reads up to version {VERSION}"
        )
    params = {k.removeprefix(_PARAM): v for k, v in arrays.items() if k.startswith(_PARAM)}
    return Saved(header, params, theta, losses)


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
        before, after = ({name: tuple(shape) for name, shape, _ in x} for x in (saved, now))
        raise ValueError(
            "the approximation was saved for a model with the latent sites "
            f"{before}, but this model, with these arguments, has {after}"
        )


def _write_atomically(path: str, arrays: dict[str, np.ndarray]) -> None:
    unfinished = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        with open(unfinished, "xb") as file:
            np.savez(file, allow_pickle=False, **arrays)  # type: ignore
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        if os.path.exists(unfinished):
            os.remove(unfinished)
        raise

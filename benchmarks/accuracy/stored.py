"""What is known of each posterior, read from ``references.json``."""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from models import CASES

Array = np.ndarray
FILE = Path(__file__).with_name("references.json")


class Reference(NamedTuple):
    """Flat unconstrained moments, sites in trace order."""

    mean: Array
    sd: Array
    optima: dict[str, tuple[Array, Array]]  # method -> mean and sd of the best q of its family


@functools.cache
def entries() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def reference(name: str) -> Reference:
    """What is known of a case.

    Raises
    ------
    KeyError
        If nothing is.
    """
    rescaled = CASES[name].rescaled
    if rescaled is not None:
        known, factors = reference(rescaled.of), rescaled.factors
        optima = {m: (mean * factors, sd * factors) for m, (mean, sd) in known.optima.items()}
        return Reference(known.mean * factors, known.sd * factors, optima)
    entry = entries()[name]
    optima = {
        method: (np.array(best["mean"]), np.array(best["sd"]))
        for method, best in entry["optima"].items()
    }
    return Reference(np.array(entry["mean"]), np.array(entry["sd"]), optima)

"""PyMC's fits, of the cases that are written in PyMC too, in an environment of its own.

viabel 0.5.1 is not among the peers: installed as it is, it cannot be imported, for it needs PyStan
without saying so, and its densities would have to be written in autograd.
"""

import ast
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from models import Case

import numpyro_vi_ext as vi

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from _peers import Peer, why  # noqa: E402, F401, from the folder above

Array = np.ndarray


def models_in_pymc() -> set[str]:
    """Names of the functions that `_pymc_models` has, which cannot be imported here."""
    tree = ast.parse((HERE / "_pymc_models.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


class PyMC:
    """A method of PyMC, one process for each case."""

    def __init__(self, method: str) -> None:
        self._method, self._peer, self._at = method, None, ("", 0)

    def __call__(self, case: Case, seed: int, n: int) -> dict[str, object]:
        """Moments in this package's order: "mean", "cov" and "seconds", or "failed"."""
        if self._at != (case.name, n):
            self.close()
            self._peer, self._at = self._start(case, n), (case.name, n)
        try:
            found = json.loads(self._peer(str(seed)))
        except RuntimeError:  # begun anew the next time
            self.close()
            raise
        if "failed" in found:
            return found
        names = vi.Model(case.model, *case.args).latents
        order = np.concatenate([np.arange(*found["where"][name]) for name in names])
        mean, cov = np.array(found["mean"]), np.array(found["cov"])
        return {**found, "mean": mean[order], "cov": cov[np.ix_(order, order)]}

    def _start(self, case: Case, n: int) -> Peer:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "arguments.npz"
            np.savez(path, *case.args)
            return Peer(HERE / "_pymc_fits.py", self._method, case.model.__name__, path, n)

    def close(self) -> None:
        if self._peer is not None:
            self._peer.close()
        self._peer, self._at = None, ("", 0)

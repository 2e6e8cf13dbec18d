"""Other packages, in a virtual environment of their own, so that they are no dependency of ours."""

import contextlib
import functools
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers"
PINNED = ["pymc==6.3.2", "pymc-extras==0.15.1", "blackjax==1.7.1"]
_PYTHONS = ("python3.13", "python3.12")  # what PyMC 6 runs on
_VERSIONS = (
    "import json, platform, sys; from importlib.metadata import version; "
    "print(json.dumps([platform.python_version(), *map(version, sys.argv[1:])]))"
)


class NotInstalledError(RuntimeError):
    """The environment of the peers cannot be made."""


@functools.cache
def _environment() -> str | NotInstalledError:
    """The interpreter, or why there is none: tried once in a process."""
    python, record = PEERS / "bin" / "python", PEERS / ".installed"
    if record.exists() and record.read_text().split() == PINNED:
        return str(python)
    print(f"making {PEERS} (some minutes)", file=sys.stderr)
    try:
        if not python.exists():
            base = next(filter(_runs, _candidates()), None)
            if base is None:
                raise NotInstalledError(f"none of {_PYTHONS} was found")
            _run([base, "-m", "venv", PEERS])
        _run([python, "-m", "pip", "install", "--quiet", *PINNED])
    except NotInstalledError as error:
        print(f"no peers: {error}", file=sys.stderr)
        return error
    record.write_text("\n".join(PINNED))
    return str(python)


def peer_python() -> str:
    """The interpreter of that environment, which is made unless it holds what is pinned.

    Raises
    ------
    NotInstalledError
        If there is no suitable Python, or the packages cannot be installed.
    """
    found = _environment()
    if isinstance(found, NotInstalledError):
        raise found
    return found


def versions(*names: str) -> str:
    """The versions of peers, of the JAX they use, and of their Python."""
    names = (*names, "jax") if "blackjax" in names else names
    try:
        command = [peer_python(), "-c", _VERSIONS, *names]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, RuntimeError, subprocess.CalledProcessError):
        return "peers not installed"
    python, *found = json.loads(done.stdout)
    pairs = ", ".join(f"{n} {v}" for n, v in zip(names, found, strict=True))
    return f"on Python {python} {pairs}"


def _candidates() -> list[str]:
    """Names of interpreters, and pyenv's, whose shims may stand for versions not switched on."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    found = [
        glob.glob(f"{pyenv}/versions/{p.removeprefix('python')}.*/bin/python") for p in _PYTHONS
    ]
    return [*_PYTHONS, *(path for paths in found for path in sorted(paths))]


def _runs(python: str) -> bool:
    try:
        done = subprocess.run([python, "-c", "import ensurepip, venv"], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def _run(command: list[object]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise NotInstalledError(f"{command}: {done.stderr[-500:]}")


class Peer:
    """A script of another package that does its work once each time it is called.

    The script reads a line from its standard input for each time, and then prints one. The first
    line is "go".
    """

    def __init__(self, script: str | Path, *arguments: object) -> None:
        command = [peer_python(), "-W", "ignore", str(HERE / script), *map(str, arguments)]
        pipe = subprocess.PIPE
        self._name = Path(script).name
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True
        )
        self()

    def __call__(self, line: str = "go") -> str:
        stdin, stdout = self._process.stdin, self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # it has stopped, and there is no answer
            stdin.write(f"{line}\n")
            stdin.flush()
        answer = stdout.readline()
        if not answer:
            self._errors.seek(0)
            errors = self._errors.read()
            print(errors, file=sys.stderr)
            self.close()
            raise RuntimeError(last_line(errors) or f"{self._name} stopped")
        return answer

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()


class Attempt:
    """A run of another package, whose failure is something to report, not an error of ours.

    Calling it does nothing once it has failed; `failure` then says why, in words for a table.
    """

    def __init__(self, make: Callable[[], Callable[[], object]]) -> None:
        self.failure = ""
        self._run = self._guarded(make)

    def __call__(self) -> object:
        return None if self.failure else self._guarded(self._run)

    def close(self) -> None:
        if isinstance(self._run, Peer):
            self._run.close()

    def _guarded(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except Exception as error:  # of whatever kind: it is another package
            self.failure = why(error)
            return None


@contextlib.contextmanager
def numbers_file(*arrays: np.ndarray, **named: np.ndarray) -> Iterator[Path]:
    """A file with arrays, which a peer reads before it answers for the first time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "numbers.npz"
        np.savez(path, *arrays, **named)
        yield path


def why(error: Exception) -> str:
    """What a table says of a peer that raised."""
    if isinstance(error, NotInstalledError):
        return "not installed"
    return f"failed: {for_table(str(error) or type(error).__name__)}"


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def for_table(text: str, longest: int = 80) -> str:
    """One short line that may stand in a table on a public page: without paths and addresses."""
    line = re.sub(r"\S*[/\\]\S*[/\\]\S*", "...", last_line(text)).replace("|", "/")
    return line if len(line) <= longest else f"{line[: longest - 3]}..."

"""Other packages, in a virtual environment of their own, so that they are no dependency of ours."""

import glob
import os
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parent.parent / ".venv-peers"
PINNED = ["pymc==6.3.2", "pymc-extras==0.15.1", "blackjax==1.7.1"]
_PYTHONS = ("python3.13", "python3.12")  # what PyMC 6 runs on


def peer_python() -> str:
    """The interpreter of that environment, which is made unless it holds what is pinned.

    Raises
    ------
    RuntimeError
        If there is no suitable Python, or the packages cannot be installed.
    """
    python, record = PEERS / "bin" / "python", PEERS / ".installed"
    if not record.exists() or record.read_text().split() != PINNED:
        print(f"making {PEERS} (some minutes)", file=sys.stderr)
        if not python.exists():
            base = next(filter(_runs, _candidates()), None)
            if base is None:
                raise RuntimeError(f"none of {_PYTHONS} was found")
            _run([base, "-m", "venv", PEERS])
        _run([python, "-m", "pip", "install", "--quiet", *PINNED])
        record.write_text("\n".join(PINNED))
    return str(python)


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
        raise RuntimeError(f"{command}: {done.stderr[-500:]}")


class Peer:
    """A script of another package that does its work once each time it is called.

    The script reads a line from its standard input for each time, and then prints one. The first
    line is "go".
    """

    def __init__(self, script: Path, *arguments: object) -> None:
        command = [peer_python(), "-W", "ignore", str(script), *map(str, arguments)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self()

    def __call__(self, line: str = "go") -> str:
        stdin, stdout = self._process.stdin, self._process.stdout
        stdin.write(f"{line}\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._process.args} stopped")
        return answer

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

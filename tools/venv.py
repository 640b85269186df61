"""Makes .venv: uv (pinned) installs the hashed lock, then this project as an editable.

Standard library only, runs on any Python >= 3.11.

A stamp with the hash of every input makes a second run a no-op of a few milliseconds, so each verb of the Makefile may
depend on it.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements" / "dev.txt"
STAMP = VENV / ".espalier-stamp"
UV_VERSION = "0.13.9"
MINIMUM = (3, 11)


def digest() -> str:
    """sha256 over everything that decides what is installed."""
    total = hashlib.sha256(f"{sys.version_info[:2]} {UV_VERSION} {VENV}".encode())
    for path in (ROOT / "pyproject.toml", LOCK):
        total.update(path.read_bytes() if path.exists() else b"absent")
    return total.hexdigest()


def run(*command: str | Path) -> None:
    """Run a command; its own output is the message when it fails."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, check=False)
    if done.returncode != 0:
        sys.exit(f"tools/venv.py: `{' '.join(str(part) for part in command)}` ended with {done.returncode}; see above")


def uv() -> Path:
    """The pinned uv, in a small environment of its own so that it never mixes with what it installs."""
    home = ROOT / ".cache" / f"uv-{UV_VERSION}"
    program = home / "bin" / "uv"
    if not program.exists():
        run(sys.executable, "-m", "venv", home)
        run(home / "bin" / "python", "-m", "pip", "install", "--quiet", f"uv=={UV_VERSION}")
    return program


def install() -> None:
    """Create or update .venv to what the lock says (or, without a lock, to what pyproject.toml allows)."""
    program = uv()
    if not (VENV / "bin" / "python").exists():
        run(program, "venv", "--quiet", "--python", sys.executable, VENV)
    target = ("--quiet", "--python", VENV / "bin" / "python")
    if LOCK.exists():
        run(program, "pip", "install", *target, "--require-hashes", "-r", LOCK)
        run(program, "pip", "install", *target, "--no-deps", "-e", ".")
    else:
        run(program, "pip", "install", *target, "-e", ".[dev]")


def main() -> None:
    """Install unless the stamp says that nothing changed. A file lock keeps two makes from installing at once."""
    if sys.version_info < MINIMUM:
        sys.exit(
            "tools/venv.py: Python 3.11 or newer is needed; run `python3.11 tools/venv.py` or put it first on PATH"
        )
    (ROOT / ".cache").mkdir(exist_ok=True)
    with (ROOT / ".cache" / "venv.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        wanted = digest()
        if STAMP.exists() and STAMP.read_text() == wanted:
            return
        print("making .venv (about 3 GB the first time, one to two minutes) ...", flush=True)
        install()
        STAMP.write_text(wanted)


if __name__ == "__main__":
    main()

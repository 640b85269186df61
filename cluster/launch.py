"""Join cgroups, then become another program.

``python -P launch.py FILE... -- COMMAND...`` writes its own process id to each
``cgroup.procs`` file and executes the command. Whatever that command forks,
also after it has crashed, is then found in the cgroup: that is how ``down``
knows its own processes. Standalone: it imports nothing of this package.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(argv: list[str]) -> None:
    """Join the cgroups before ``--`` and execute what follows it."""
    split = argv.index("--")
    for file in argv[:split]:
        Path(file).write_text(str(os.getpid()))
    command = argv[split + 1 :]
    os.execvp(command[0], command)  # noqa: S606 - the purpose of this program


if __name__ == "__main__":
    main(sys.argv[1:])

"""`make demo`: sets the stage, then plays `espalier demo` where the cluster can be reached.

`python -m tools.demo --help`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from cluster.errors import ClusterError
from images.errors import ImageError
from tools.stage import ROOT, StageError, refs, set_up


def main() -> int:
    """Return the demo's own exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", help="use this kube context instead of a kind cluster of our own")
    parser.add_argument("demo", nargs="*", help="arguments for `espalier demo` (after --)")
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        cluster = set_up(arguments.context)
    except (StageError, ClusterError, ImageError) as error:
        sys.stderr.write(f"make demo: {error}\n")
        return 1
    print(f"The stage is set after {time.monotonic() - started:.0f} s.", flush=True)
    named = ["--context", arguments.context] if arguments.context else []
    argv = [sys.executable, "-m", "espalier_cli", "demo", "--loadgen-image", refs()["loadgen"], *named, *arguments.demo]
    return subprocess.run(cluster.exec_argv(argv), env=cluster.env(), cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())

"""The server under test, on the benchmark's artifact, in a process of its own: `python -m bench.server_subject PORT`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bench.server_model import artifact
from espalier_server.main import SWITCH_SECONDS
from espalier_server.process import Process, run

if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_SECONDS)
    store, config = artifact()
    with tempfile.TemporaryDirectory() as folder:
        process = Process(config, Path(folder) / "version", lambda _: store, host="127.0.0.1", port=int(sys.argv[1]))
        sys.exit(run(process, Path("/dev/null")))

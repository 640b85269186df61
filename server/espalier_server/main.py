"""`python -m espalier_server --config /etc/espalier/serving/serving.json`"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from espalier_api.names import PORT_SERVER, SERVING_PATH, TERMINATION_LOG
from espalier_server.config import read_config
from espalier_server.errors import StartError
from espalier_server.process import Process, report, run
from espalier_server.storage import S3Store

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one version; returns the exit code: 0 after SIGTERM, 42 for a bad configuration, 44 for a bad artifact."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("botocore").setLevel(logging.WARNING)  # where it found its credentials is nobody's news
    try:
        config = read_config(options.config)
    except StartError as error:
        return report(error, options.termination_log)
    sys.setswitchinterval(SWITCH_SECONDS)
    process = Process(config, options.folder, S3Store, host=options.host, port=options.port)
    return run(process, options.termination_log)


SWITCH_SECONDS = 0.0005
"""A worker that comes back from onnxruntime asks the event loop for the GIL; Python's 5 ms wait would be the p99."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="espalier-server", description="Serve one version of one model.")
    parser.add_argument("--config", type=Path, default=Path(SERVING_PATH), help="serving.json")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104 - a pod serves its network
    parser.add_argument("--port", type=int, default=PORT_SERVER)
    folder = Path(tempfile.gettempdir()) / "espalier-artifact"
    parser.add_argument("--folder", type=Path, default=folder, help="scratch folder for the artifact; emptied at start")
    parser.add_argument("--termination-log", type=Path, default=Path(TERMINATION_LOG), help="file for the last words")
    return parser

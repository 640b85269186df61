"""Entry of `python -m espalier_server`."""

import signal
import sys

# A container's first process ignores every signal that it has no handler for: without this, a pod that is deleted while Python
# still imports would stay until its grace period is over.
signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))

from espalier_server.main import main  # noqa: E402 - the handler comes first

sys.exit(main())

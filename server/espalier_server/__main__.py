"""Entry of `python -m espalier_server`."""

import sys

from espalier_server.main import main

sys.exit(main())

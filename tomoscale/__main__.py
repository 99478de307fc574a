"""The command line, as ``python -m tomoscale``."""

from __future__ import annotations

import sys

from tomoscale.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m tomoscale.cli`` is ``tomoscale``."""

import sys

from tomoscale.cli import main

if __name__ == "__main__":
    sys.exit(main())

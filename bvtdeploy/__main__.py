"""`python -m bvtdeploy`."""

import sys

from bvtdeploy.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m sdmad_lite` is `sdmad`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

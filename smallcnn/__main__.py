"""`python -m smallcnn`: the command line."""

import sys

from smallcnn.cli import main

if __name__ == "__main__":
    sys.exit(main())

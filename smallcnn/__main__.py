"""`python -m smallcnn`: the command line."""

import sys

from smallcnn import surroundings

if __name__ == "__main__":
    surroundings.enter(["-m", "smallcnn", *sys.argv[1:]])
    from smallcnn.cli import main

    sys.exit(main())

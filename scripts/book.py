"""Builds the book: `book.py`, `book.py --fresh` to train everything anew, `book.py --preview` for a quick look."""

from __future__ import annotations

import argparse
import shutil
import sys

from smallcnn.publishing import BuildError, fresh_edition, preview_edition, publish, published_edition


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--fresh", action="store_true", help="ignore the recorded runs and train everything")
    which.add_argument("--preview", action="store_true", help="the whole book from few images and epochs")
    arguments = parser.parse_args()
    edition = preview_edition() if arguments.preview else fresh_edition() if arguments.fresh else published_edition()
    finished = edition.runs.parent / "finished"
    if arguments.fresh and finished.exists():  # an unfinished one goes on from its runs
        shutil.rmtree(edition.runs.parent)
    try:
        first_page = publish(edition)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets one message
        kind = "" if isinstance(error, BuildError) else f"{type(error).__name__}: "
        print(f"error: {kind}{error}", file=sys.stderr)
        return 1
    if arguments.fresh:
        finished.touch()
    print(f"Open {first_page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

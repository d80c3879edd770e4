"""Builds the book: `book.py`, `book.py --fresh` to train everything anew, `book.py --preview` for a quick look."""

from __future__ import annotations

import argparse
import shutil
import sys

from smallcnn.commands import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--fresh", action="store_true", help="ignore the recorded runs and train everything")
    which.add_argument("--preview", action="store_true", help="the whole book from few images and epochs")
    arguments = parser.parse_args()
    from smallcnn.publishing import fresh_edition, preview_edition, publish, published_edition

    edition = preview_edition() if arguments.preview else fresh_edition() if arguments.fresh else published_edition()
    finished = edition.runs.parent / "finished"
    if arguments.fresh and finished.exists():  # an unfinished one goes on from its runs
        shutil.rmtree(edition.runs.parent)
    first_page = publish(edition)
    if arguments.fresh:
        finished.touch()
    print(f"Open {first_page}")


if __name__ == "__main__":
    sys.exit(run(main))

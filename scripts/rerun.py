"""Reruns one chapter: its name is in the environment variable CHAPTER, its changed parameters in PARAMS."""

from __future__ import annotations

import os
import sys

from smallcnn.commands import run
from smallcnn.parameters import ParameterError, parse_changes


def main() -> None:
    from smallcnn.chapters import CHAPTERS, check_parameters

    chapter = os.environ.get("CHAPTER", "")
    if not chapter:
        raise ParameterError(
            f'name a chapter, as in: make rerun CHAPTER=approach_2 PARAMS="epochs=10" ({", ".join(CHAPTERS)})'
        )
    changes = parse_changes(os.environ.get("PARAMS", ""), chapter)
    check_parameters(chapter, changes)
    from smallcnn.publishing import publish, rerun_edition  # here: an error must not wait for them

    first_page = publish(rerun_edition(chapter, changes))
    print(f"Open {first_page.with_name(f'{chapter}.html')}")


if __name__ == "__main__":
    sys.exit(run(main))

"""Reruns one chapter: its name is in the environment variable CHAPTER, its changed parameters in PARAMS."""

from __future__ import annotations

import os
import sys

from smallcnn.parameters import ParameterError, parse_changes


def main() -> int:
    from smallcnn.chapters import CHAPTERS, check_parameters

    chapter = os.environ.get("CHAPTER", "")
    try:
        if not chapter:
            raise ParameterError(
                f'name a chapter, as in: make rerun CHAPTER=approach_2 PARAMS="epochs=10" ({", ".join(CHAPTERS)})'
            )
        changes = parse_changes(os.environ.get("PARAMS", ""), chapter)
        check_parameters(chapter, changes)
    except ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from smallcnn.publishing import BuildError, publish, rerun_edition  # here: an error must not wait for them

    try:
        first_page = publish(rerun_edition(chapter, changes))
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets one message
        kind = "" if isinstance(error, BuildError) else f"{type(error).__name__}: "
        print(f"error: {kind}{error}", file=sys.stderr)
        return 1
    print(f"Open {first_page.with_name(f'{chapter}.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

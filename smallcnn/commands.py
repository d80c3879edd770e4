"""How commands end: what goes wrong becomes one line and an exit code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable


class CommandError(Exception):
    """What was asked for cannot be done; the message is all that a user needs."""

    exit_code = 1


def say(line: str) -> None:
    """Prints a line at once, wherever the output goes."""
    print(line, flush=True)


def run(command: Callable[[], None]) -> int:
    """Runs a command and returns its exit code; whatever goes wrong becomes one line."""
    try:
        command()
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; finished runs are recorded, and the same command goes on from them", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets one message
        print(f"error: {' '.join(_message(error).split())}", file=sys.stderr)
        return 1
    return 0


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full; make room, and the same command goes on from what is finished"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return f"{type(error).__name__}: {error}"

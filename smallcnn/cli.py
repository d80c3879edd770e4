"""The command line of the project, `python -m smallcnn`; the Make targets call it."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from smallcnn.checks import quote
from smallcnn.commands import CommandError, run, say
from smallcnn.paths import check_environment
from smallcnn.report.parameters import ParameterError
from smallcnn.study import CHAPTERS

if TYPE_CHECKING:
    from pathlib import Path

    from smallcnn.build.cache import Edition

# What a command needs is imported when it runs: help and errors must not wait for it.

DESCRIPTION = """\
How small can a network be and still read 99 % of handwritten digits? Builds the book that answers, and reruns it.

  python -m smallcnn book                                     build the book
  python -m smallcnn rerun approach_2 epochs=10               one chapter with other values, then the book
  python -m smallcnn sweep approach_2 learning_rate=0.003,0.01 seeds=0..4
  python -m smallcnn runs                                     your own runs: list, remove, publish

Every command says what is wrong in one line, before anything starts, and goes on where it was if it is interrupted.
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    if words.count("--") > 1:  # argparse may drop the second without a word
        parser.error("'--' stands where a value is expected")
    options = parser.parse_args(words)

    def command() -> None:
        check_environment()
        options.command(options)

    return run(command)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m smallcnn", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    chapters = f"a chapter: {', '.join(CHAPTERS)}"

    def add(name: str, command: object, help: str, more: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}. {more}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=command)
        return added

    book = add(
        "book",
        _book,
        "build the book from recorded runs, and train what is missing",
        "A book that is up to date is left alone.\nWhat is trained is recorded in data/runs.",
    )
    which = book.add_mutually_exclusive_group()
    which.add_argument("--fresh", action="store_true", help="ignore the recorded runs and train everything")
    which.add_argument(
        "--preview", action="store_true", help="the whole book from few images and epochs, in build/preview"
    )

    rerun = add(
        "rerun",
        _rerun,
        "run one chapter with other values and rebuild the book",
        "The page says what was changed.\nThe next `book` returns to the published values.",
    )
    rerun.add_argument("chapter", nargs="?", default="", help=chapters)
    rerun.add_argument("changes", nargs="*", metavar="name=value", help="a list as 4,8,10, an empty one as []")

    sweep = add(
        "sweep",
        _sweep,
        "train every combination of several values and seeds",
        "Leaves a table, a CSV and a figure in build/sweeps.",
    )
    sweep.add_argument(
        "--with", dest="changes", default="", metavar='"name=value …"', help="other parameters for all runs"
    )
    sweep.add_argument("chapter", nargs="?", default="", help="a chapter that trains one network")
    sweep.add_argument(
        "grid",
        nargs="*",
        metavar="name=values",
        help="values with commas, seeds=0..4 for a range, slashes between lists",
    )

    runs = add(
        "runs",
        _runs,
        "list your own runs, which are in data/runs",
        "Reruns, sweeps and notebooks record there; git ignores it.",
    )
    chosen = runs.add_mutually_exclusive_group()
    chosen.add_argument("--remove", nargs="+", metavar="key", help="remove these; `all` removes all")
    chosen.add_argument(
        "--publish",
        action="store_true",
        help="move those that the book uses as published to runs/, and name what it does not",
    )

    again = add(
        "reproduce",
        _reproduce,
        "train published runs of Halide again, and compare them byte for byte",
        "The time is shown first.\nA run of TensorFlow is trained if it is named.",
    )
    fewer = again.add_mutually_exclusive_group()
    fewer.add_argument("--sample", metavar="number", help="so many, at random")
    fewer.add_argument("--minutes", metavar="number", help="as many, at random, as so many minutes are enough for")
    again.add_argument("keys", nargs="*", metavar="key", help="only these")

    add(
        "parameters",
        _parameters,
        "write the published values of smallcnn/study.py into the chapters' parameters cells",
    )
    serve = add("serve", _serve, "serve the book on this machine")
    serve.add_argument("port", nargs="?", default="8000", help="a number from 1 to 65535")
    return parser


def _book(options: argparse.Namespace) -> None:
    import shutil

    from smallcnn.build import cache

    edition = cache.published_edition()
    if options.preview:
        edition = cache.preview_edition()
    elif options.fresh:
        edition = cache.fresh_edition()
        if _finished(edition).exists():  # an unfinished one goes on from its runs
            shutil.rmtree(edition.folder / "fresh")
            cache.forget(edition, CHAPTERS)
    first_page = _publish(edition)
    if options.fresh:
        _finished(edition).touch()
    say(f"Open {first_page}")


def _finished(edition: Edition) -> Path:
    return edition.folder / "fresh" / "finished"


def _publish(edition: Edition) -> Path:
    """Builds an edition; imports what that takes only if there is something to do."""
    from smallcnn.build import cache

    if not cache.book_is_current(edition):
        from smallcnn.build.book import publish

        return publish(edition)
    say("The book is up to date.")
    return edition.html / "index.html"


def _rerun(options: argparse.Namespace) -> None:
    from smallcnn.report.parameters import parse_changes

    if not options.chapter:
        raise ParameterError(
            f'name a chapter, as in: make rerun CHAPTER=approach_2 PARAMS="epochs=10" ({", ".join(CHAPTERS)})'
        )
    changes = parse_changes(" ".join(options.changes), options.chapter)
    from smallcnn.report.notebook import check_parameters

    check_parameters(options.chapter, changes)
    from smallcnn.build.cache import rerun_edition

    first_page = _publish(rerun_edition(options.chapter, changes))
    say(f"Open {first_page.with_name(f'{options.chapter}.html')}")


def _sweep(options: argparse.Namespace) -> None:
    if not options.chapter:
        raise ParameterError(
            'name a chapter, as in: make sweep CHAPTER=approach_2 GRID="learning_rate=0.003,0.01 seeds=0..4"'
        )
    from smallcnn.report.sweeps import parse_sweep, run_sweep

    run_sweep(parse_sweep(options.chapter, " ".join(options.grid), options.changes))


def _runs(options: argparse.Namespace) -> None:
    from smallcnn.report import own_runs

    if options.remove:
        own_runs.remove(options.remove)
    elif options.publish:
        from smallcnn.build import cache

        if not cache.book_is_current(cache.published_edition()):
            raise CommandError("the book is not built as published; run 'make book' first")
        own_runs.publish()
    else:
        own_runs.show()


def _reproduce(options: argparse.Namespace) -> None:
    from smallcnn.runs.reproduce import reproduce

    sample, minutes = _above_zero("SAMPLE", options.sample), _above_zero("MINUTES", options.minutes)
    reproduce(say, " ".join(options.keys).split(), None if sample is None else math.ceil(sample), minutes)


def _above_zero(name: str, text: str | None) -> float | None:
    """The number that an option has, if it is given."""
    try:
        number = None if text is None else float(text)
    except ValueError:
        number = math.nan
    if number is None or 0 < number < 1e6:
        return number
    raise ParameterError(f"{name} is {quote(str(text))}; expected a number above 0")


def _parameters(options: argparse.Namespace) -> None:
    from smallcnn.report.notebook import write_published_parameters

    changed = write_published_parameters()
    say(f"written: {', '.join(changed)}" if changed else "every notebook has the published values")


def _serve(options: argparse.Namespace) -> None:
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    from smallcnn.paths import build_folder

    html, text = build_folder() / "html", options.port
    if not (html / "index.html").exists():
        raise CommandError("there is no book in build/html yet; run 'make book' first")
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise CommandError(f"PORT is {quote(text)}; expected a number from 1 to 65535, as in: make serve PORT=8080")
    handler = partial(SimpleHTTPRequestHandler, directory=html)
    try:
        server = ThreadingHTTPServer(("127.0.0.1", int(text)), handler)
    except OSError as error:
        other = 8081 if int(text) == 8080 else 8080
        raise CommandError(f"port {text}: {error.strerror}; another one may do: make serve PORT={other}") from error
    with server:
        say(f"The book is at http://127.0.0.1:{text}/ until you press Ctrl-C.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return

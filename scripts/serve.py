"""Serves the built book on this machine, at the port that the environment variable PORT gives."""

from __future__ import annotations

import os
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from smallcnn.checks import quote
from smallcnn.commands import CommandError, run, say
from smallcnn.paths import build_folder


def main() -> None:
    html, text = build_folder() / "html", os.environ.get("PORT", "")
    if not (html / "index.html").exists():
        raise CommandError("there is no book in build/html yet; run 'make book' first")
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise CommandError(f"PORT is {quote(text)}; expected a number from 1 to 65535, as in: make serve PORT=8080")
    handler = partial(SimpleHTTPRequestHandler, directory=html)
    try:
        server = ThreadingHTTPServer(("127.0.0.1", int(text)), handler)
    except OSError as error:
        raise CommandError(f"port {text}: {error.strerror}; another one may be free: make serve PORT=8080") from error
    with server:
        say(f"The book is at http://127.0.0.1:{text}/ until you press Ctrl-C.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    sys.exit(run(main))

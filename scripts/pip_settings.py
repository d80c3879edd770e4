"""Prints, for a shell to evaluate, where pip's environment variables and files say to download from, and how.

Nothing else of pip's settings counts in the set-up: they could change what is installed, or where. They are read as pip
reads them, and not by `pip config list`, which itself obeys them (`quiet`, `log`, `python`).
"""

from __future__ import annotations

import shlex

from pip._internal.configuration import Configuration
from pip._internal.exceptions import ConfigurationError

SETTINGS = (
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "trusted-host",
    "cert",
    "client-cert",
    "proxy",
    "timeout",
    "default-timeout",
    "retries",
    "keyring-provider",
    "cache-dir",
    "no-cache-dir",
)


def read_setting(configuration: Configuration, name: str) -> str:
    """What counts for `pip install`: the environment before its own section before that of all commands; or nothing."""
    for section in (":env:", "install", "global"):
        try:
            value = configuration.get_value(f"{section}.{name}")
        except ConfigurationError:
            continue
        if value:
            return " ".join(value.split("\n")).strip()
    return ""


def main() -> None:
    configuration = Configuration(isolated=False)
    configuration.load()
    for name in SETTINGS:
        value = shlex.quote(read_setting(configuration, name))
        print(f"export PIP_{name.upper().replace('-', '_')}={value}")


if __name__ == "__main__":
    main()

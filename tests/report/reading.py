"""Reads tables back: Markdown as a page has it, HTML as a notebook shows it, and the CSV that it offers."""

from __future__ import annotations

import io
import re
from base64 import b64decode

import pandas as pd
from bs4 import BeautifulSoup, Tag

from smallcnn.report.tables import to_markdown


def plain(text: str) -> str:
    """A text with plain spaces in the place of narrow and of unbreakable ones."""
    return text.replace("\u202f", " ").replace("\u00a0", " ")


def cells_of(markdown: str) -> list[list[str]]:
    """The cells of a Markdown table: its header, then its rows. Checks that the table is well-formed."""
    rows = []
    for line in markdown.strip().splitlines():
        assert line.startswith("| ") and line.endswith(" |"), line
        rows.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line[1:-1])])
    assert {len(row) for row in rows} == {len(rows[0])}
    assert all(cell in (":--", "--:") for cell in rows[1])
    return [rows[0], *rows[2:]]


def table_of(shown: str | pd.DataFrame, labels: int = 1) -> dict[str, dict[str, str]]:
    """A table as a page shows it: what stands in each row, named by its first cells, under each heading."""
    header, *rows = cells_of(shown if isinstance(shown, str) else to_markdown(shown))
    assert len(set(header)) == len(header)
    found = {", ".join(row[:labels]): dict(zip(header, map(plain, row), strict=True)) for row in rows}
    assert len(found) == len(rows)
    return {plain(label): dict(list(row.items())[labels:]) for label, row in found.items()}


def html_cells(html: str) -> list[list[Tag]]:
    """The cells of a table in HTML: its header, then its rows."""
    return [row.find_all(["th", "td"]) for row in BeautifulSoup(html, "html.parser").find_all("tr")]


def offered_csv(html: str) -> tuple[str, pd.DataFrame]:
    """The name of the CSV that a table offers, and what is in it."""
    link = BeautifulSoup(html, "html.parser").find("a", download=True)
    assert isinstance(link, Tag)
    kind, _, content = str(link["href"]).partition(",")
    assert kind == "data:text/csv;base64"
    return str(link["download"]), pd.read_csv(io.BytesIO(b64decode(content)))

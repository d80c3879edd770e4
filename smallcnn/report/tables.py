"""How numbers and tables look: data frames as HTML in a notebook and as Markdown on a plain page."""

from __future__ import annotations

import html
import math
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from smallcnn.report.uncertainty import Verdict, is_above, mean_and_deviation, paired_difference

if TYPE_CHECKING:
    import pandas as pd

# What columns are called on a page, where it is not their name with spaces.
TITLES = {
    "best_epoch": "at epoch",
    "final_test_accuracy": "after the last epoch",
    "other_half_accuracy": "epoch chosen by other images",
    "lowest_accuracy": "lowest seed",
    "interval": "95 % interval",
    "epochs_run": "epochs",
    "total": "parameters",
    "multiply_adds": "multiply-adds an image",
    "article": "in the article",
    "trained": "trained on",
    "points": "points, 95 % interval",
}
PER_CENT = ("accuracy", "fraction", "share", "interval_low", "interval_high")


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> str:
    """Lays out a Markdown table; the first `left` columns are aligned left, the others, numbers, right."""
    align = [":--" if column < left else "--:" for column in range(len(header))]
    lines = [header, align, *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def percent(share: float, digits: int = 2) -> str:
    """Shows 0 to 1 as per cent, with a narrow space before the sign."""
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f}\u202f%"


def plus_minus(mean: float, deviation: float) -> str:
    """Shows an accuracy (0 to 1) in per cent with its standard deviation, if there is one."""
    return percent(mean) if math.isnan(deviation) else f"{100 * mean:.2f}\u00a0±\u00a0{100 * deviation:.2f}\u202f%"


def spread(values: Sequence[float]) -> str:
    """Shows accuracies (0 to 1) as mean ± standard deviation in per cent, or the one value there is."""
    return plus_minus(*mean_and_deviation(values))


def difference(values: Sequence[float], others: Sequence[float]) -> str:
    """Shows how much higher accuracies (0 to 1) are than those of the same seeds: mean and 95 % interval, in points."""
    mean, half_width = paired_difference(values, others)
    return points(100 * mean, 100 * half_width)


def points(mean: float, half_width: float) -> str:
    """Shows a difference in percentage points and half the width of its interval, if that has bounds."""
    shown = f"{mean:+.2f}".replace("-", "−")
    return shown if math.isinf(half_width) else f"{shown}\u00a0±\u00a0{half_width:.2f}"


HIGHER = {Verdict.SEEN: "higher", Verdict.NOT_SEEN: "lower", Verdict.UNDECIDED: "undecided"}


def named_frame(name: str, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a data frame with the name that its file has."""
    import pandas as pd  # here: what only shows numbers must not wait for it

    found = pd.DataFrame(list(rows))
    found.attrs["name"] = name
    return found


def differences(rows: Iterable[tuple[str, str, Sequence[float], Sequence[float]]]) -> pd.DataFrame:
    """Networks against each other: two names, and the accuracies (0 to 1) of each with the same seeds.

    `points` is the mean difference in percentage points, `points_half_width` half the width of its 95 % interval.
    """
    found = []
    for one, other, values, others in rows:
        mean, half_width = paired_difference(values, others)
        found.append(
            {
                "what": one,
                "against": other,
                "seeds": len(values),
                "points": 100 * mean,
                "points_half_width": 100 * half_width,
                "accuracy_is": HIGHER[is_above(values, others)],
            }
        )
    return named_frame("differences", found)


def difference_table(rows: Iterable[tuple[str, str, Sequence[float], Sequence[float]]]) -> str:
    """The same as Markdown."""
    return to_markdown(differences(rows))


def _counted(count: int, share: float) -> str:
    return f"{count:,} ({percent(share, 0)})"


def _from_to(low: float, high: float) -> str:
    return f"{100 * low:.2f} to {percent(high)}"


# Columns that are shown as one: how the name of the first ends, how that of the second, and the text that they make.
PAIRS = (("", "_sd", plus_minus), ("", "_share", _counted), ("", "_half_width", points), ("_low", "_high", _from_to))


def shown_cells(frame: pd.DataFrame) -> tuple[list[str], list[list[str]], list[bool]]:
    """A data frame as a page shows it.

    Shares are per cent. A column and its `_sd` are one, "mean ± deviation", as are a difference and its `_half_width`,
    a count and its `_share`; `_low` and `_high` are one, "from to".

    Returns:
        The titles of the columns, the texts of the rows, and of each column whether it holds numbers.
    """
    from pandas.api.types import is_numeric_dtype

    frame = _with_index(frame)
    names = [str(name) for name in frame.columns]
    columns = [list(frame.iloc[:, position]) for position in range(len(names))]
    titles, texts, are_numbers = [], [], []
    for position, (name, values) in enumerate(zip(names, columns, strict=True)):
        if any(name.endswith(second) and name.removesuffix(second) + first in names for first, second, _ in PAIRS):
            continue
        title, cells = name, [_shown(value, name.endswith(PER_CENT)) for value in values]
        for first, second, show in PAIRS:
            base = name.removesuffix(first)
            if name.endswith(first) and base + second in names:
                others = columns[names.index(base + second)]
                title, cells = base, [_pair(*both, show) for both in zip(values, others, strict=True)]
        titles.append(TITLES.get(title, title.replace("_", " ")))
        texts.append(cells)
        are_numbers.append(is_numeric_dtype(frame.dtypes.iloc[position]))
    return titles, [list(row) for row in zip(*texts, strict=True)], are_numbers


def _with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its index as columns, unless that only counts the rows."""
    from pandas.api.types import is_integer_dtype

    only_counts = frame.index.names == [None] and is_integer_dtype(frame.index)
    return frame if only_counts else frame.reset_index(allow_duplicates=True)


def _pair(one: Any, other: Any, show: Callable[[Any, Any], str]) -> str:
    return "–" if _is_missing(one) else show(one, math.nan if _is_missing(other) else other)


def _shown(value: Any, is_share: bool) -> str:
    if _is_missing(value):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return str(value)
    if is_share:
        return percent(float(value))
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:,.4g}"


def _is_missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def to_markdown(frame: pd.DataFrame) -> str:
    """A data frame as a Markdown table."""
    titles, rows, are_numbers = shown_cells(frame)
    left = are_numbers.index(True) if True in are_numbers else len(titles)
    return table(titles, rows, left)


def to_html(frame: pd.DataFrame) -> str:
    """A data frame as the book's one kind of table, with a link that downloads it as CSV.

    A caption, or the file's name, may stand in `frame.attrs` as `caption` and `name`. `Code` and **bold** are as in
    Markdown.
    """
    titles, rows, are_numbers = shown_cells(frame)
    kinds = ["number" if is_number else "text" for is_number in are_numbers]
    head = "".join(
        f'<th scope="col" class="{kind}">{_inline(title)}</th>' for kind, title in zip(kinds, titles, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{kind}">{_inline(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    caption = f"<caption>{_inline(frame.attrs['caption'])}</caption>" if "caption" in frame.attrs else ""
    plain = _with_index(frame).replace(r"[`*]", "", regex=True)  # without marks that are for the eye
    csv = b64encode(plain.to_csv(index=False, lineterminator="\n").encode()).decode()
    name = html.escape(f"{frame.attrs.get('name', 'table')}.csv")
    return (
        f'<div class="results"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        f'<p class="download"><a download="{name}" href="data:text/csv;base64,{csv}">{name}</a></p></div>'
    )


def _inline(text: str) -> str:
    escaped = html.escape(text, quote=False)
    coded = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", coded)

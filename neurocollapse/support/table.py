"""Tables for terminals and notebooks."""

from collections.abc import Collection, Sequence

from markupsafe import Markup


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[int] = ()) -> str:
    """A table with aligned columns; the columns in `numbers` are flush right.

    Examples
    --------
    >>> print(aligned(["layer", "D"], [["fc1", "11.2"], ["fc2", "0.3"]], numbers={1}))
    layer     D
    fc1    11.2
    fc2     0.3
    """
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[int] = ()) -> Markup:
    """A table for notebooks; the columns in `numbers` are flush right, and only what is `Markup` already is markup.

    Examples
    --------
    >>> print(html_table(["D"], [["<1"]], numbers={0}))
    <table><thead><tr><th style="text-align:right;vertical-align:bottom">D</th></tr></thead>
    <tbody><tr><td style="text-align:right">&lt;1</td></tr></tbody></table>
    """
    sides = ["text-align:right" if column in numbers else "text-align:left" for column in range(len(headings))]
    head = _row("th", headings, [f"{side};vertical-align:bottom" for side in sides])
    body = Markup().join(_row("td", row, sides) for row in rows)
    return Markup("<table><thead>{}</thead>\n<tbody>{}</tbody></table>").format(head, body)


def _row(tag: str, cells: Sequence[str], styles: Sequence[str]) -> Markup:
    """One row; by themselves notebooks put every cell flush right."""
    one = Markup(f'<{tag} style="{{}}">{{}}</{tag}>')
    return Markup("<tr>{}</tr>").format(Markup().join(one.format(*pair) for pair in zip(styles, cells, strict=True)))

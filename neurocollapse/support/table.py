"""Plain-text tables for terminals."""

from collections.abc import Collection, Sequence


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

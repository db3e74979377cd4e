"""Tables, as text and in a notebook."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape

Row = tuple[str, ...] | None                                      # cells, or a rule across


def format_table(rows: Sequence[Row], right: int) -> str:
    """Rows as aligned columns, those from number `right` on flush right.

    The first row is the heading.
    """
    cells = [row for row in rows if row is not None]
    widths = [max(map(len, column)) for column in zip(*cells)]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    lines = []
    for row in [rows[0], None, *rows[1:]]:
        if row is None:
            lines.append(rule)
            continue
        padded = [cell.rjust(width) if i >= right else cell.ljust(width)
                  for i, (cell, width) in enumerate(zip(row, widths))]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


@dataclass(frozen=True)
class Table:
    """A table between lines of text: `str()` is text, a notebook shows HTML.

    rows, right: as for `format_table`. above, below: lines. marked: indices into `rows` of those
    that stand out in HTML.
    """
    rows: Sequence[Row]
    right: int
    above: Sequence[str] = ()
    below: Sequence[str] = ()
    marked: Collection[int] = ()

    def __str__(self) -> str:
        return "\n".join([*self.above, format_table(self.rows, self.right), *self.below])

    def _repr_html_(self) -> str:
        lines = [f"<div>{escape(line)}</div>" for line in self.above]
        lines.append('<table style="border-collapse: collapse">')
        rule = ""
        for number, row in enumerate(self.rows):
            if row is None:
                rule = "border-top: 1px solid; "
                continue
            colour = "background: rgba(255, 160, 0, 0.3); " if number in self.marked else ""
            tag = "td" if number else "th"
            lines.append(f'<tr style="{rule}{colour}">')
            for i, cell in enumerate(row):
                side = "right" if i >= self.right else "left"
                style = f"text-align: {side}; padding: 0.1em 0.7em"
                lines.append(f'<{tag} style="{style}">{escape(cell)}</{tag}>')
            lines.append("</tr>")
            rule = "" if number else "border-top: 1px solid; "    # below the heading
        lines.append("</table>")
        lines += [f"<div>{escape(line)}</div>" for line in self.below]
        return "\n".join(lines)


class Tabular(ABC):
    """What is shown as a table, by `str()` and in a notebook."""

    @abstractmethod
    def table(self) -> Table:
        """Itself as a table."""

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

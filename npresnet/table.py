"""Tables as text."""
from __future__ import annotations

from collections.abc import Sequence


def format_table(rows: Sequence[tuple[str, ...] | None], right: int) -> str:
    """Rows as aligned columns, those from number `right` on flush right; None is a rule. The first row is the heading."""
    rows = [rows[0], None, *rows[1:]]
    widths = [max(len(row[i]) for row in rows if row) for i in range(len(rows[0]))]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    line = lambda row: "  ".join(cell.rjust(w) if i >= right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths)))
    return "\n".join(line(row).rstrip() if row else rule for row in rows)

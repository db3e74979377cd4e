"""Tables: aligned text, HTML that says the same, and the classes that are shown as one."""
from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

import npresnet
from cuda_kernels.performance import GPUS, Expected, Forecast
from npresnet.fast.report import LayerPlan, PlanReport
from npresnet.instruments.bench import Measurement, Result
from npresnet.table import Table, Tabular, format_table

ROWS = [("layer", "kind", "ms"), ("<a>", "x & y", "1.5"), None, ("total", '"', "12.25")]
TABLE = Table(ROWS, right=2, above=["<script>alert(1)</script>"], below=["a <b>", "done"],
              marked=[1])


class Reader(HTMLParser):
    """What a browser makes of it.

    rows: of (tag, text-align, text) for each cell. styles: of each row. lines: outside the table.
    """

    def __init__(self, html: str):
        super().__init__()
        self.rows: list[list[tuple[str, str, str]]] = []
        self.styles: list[str] = []
        self.lines: list[tuple[int, str]] = []
        self.open: list[str] = []
        self.align = ""
        self.feed(html)
        self.close()
        assert self.open == [], "left open"

    def handle_starttag(self, tag, attrs):
        assert tag in ("div", "table", "tr", "th", "td"), tag
        style = dict(attrs).get("style", "")
        self.open.append(tag)
        self.text = ""
        if tag == "tr":
            self.rows.append([])
            self.styles.append(style)
        self.align = style.removeprefix("text-align: ").partition(";")[0]

    def handle_data(self, data):
        self.text += data

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "div":
            self.lines.append((len(self.rows), self.text))
        elif tag in ("th", "td"):
            self.rows[-1].append((tag, self.align, self.text))


def test_text():
    assert str(TABLE) == "\n".join([
        "<script>alert(1)</script>",
        "layer  kind      ms",
        "───────────────────",
        "<a>    x & y    1.5",
        "───────────────────",
        'total  "      12.25',
        "a <b>",
        "done"])
    assert format_table([("a", "b"), ("long", "")], right=1) == "a     b\n───────\nlong"


def test_html():
    html = TABLE._repr_html_()
    assert not any(raw in html for raw in ("<script", "<a>", "<b>", "x & y"))
    read = Reader(html)
    assert read.lines == [(0, "<script>alert(1)</script>"), (3, "a <b>"), (3, "done")]
    assert read.rows == [
        [("th", "left", "layer"), ("th", "left", "kind"), ("th", "right", "ms")],
        [("td", "left", "<a>"), ("td", "left", "x & y"), ("td", "right", "1.5")],
        [("td", "left", "total"), ("td", "left", '"'), ("td", "right", "12.25")]]


def test_rules_and_marks():
    """A rule below the heading and before the total, a colour behind the marked rows alone."""
    rows = [("a",), ("b",), ("c",), None, ("d",), ("e",)]
    read = Reader(Table(rows, right=0, marked=[2, 5])._repr_html_())
    assert ["border-top" in style for style in read.styles] == [False, True, False, True, False]
    assert ["background" in style for style in read.styles] == [False, False, True, False, True]


def comparison() -> npresnet.Comparison:
    a = {"a": np.ones(2), "b<": np.ones(2), "c": np.ones(2), "d": np.ones(2)}
    return npresnet.compare(a, {"a": np.ones(2), "c": np.zeros(2), "d": np.zeros(2)})


def shown() -> list[Tabular]:
    """One of each class that is shown as a table."""
    summary = npresnet.create_model("resnetv2_18", backend="numpy").summary((3, 64, 96))
    layer = LayerPlan("stem.conv", "direct 7×7", "6×32", 0.5, 0.5, 2.0, 4.0)
    plan = PlanReport("tiny", (3, 32, 40), 2, 250.0, 15.0, (layer, layer))
    launch = Expected("stem.conv", "conv2d_rows", 8, 1, 0.5, 2.0, 40.0, "sums")
    forecast = Forecast("tiny", (8, 3, 32, 40), GPUS["T4"], [launch], measured=1.0)
    result = Result("numba", 1, "f32", "numba <1>", ((2.0, 4.0), (3.0,)), 100.4, 1e-6)
    measurement = Measurement("tiny", (3, 32, 40), 1, "a processor", (result,), ())
    return [summary, plan, forecast, measurement, comparison()]


@pytest.mark.parametrize("thing", shown(), ids=lambda thing: type(thing).__name__)
def test_text_and_html_say_the_same(thing):
    html = Reader(thing._repr_html_())
    text = str(thing).splitlines()
    assert [line for row, line in html.lines if row == 0] == text[:text.index(text_rule(text)) - 1]
    words = [" ".join(text for _, _, text in row).split() for row in html.rows]
    words += [line.split() for row, line in html.lines if row]
    first = text.index(text_rule(text)) - 1
    assert words == [line.split() for line in text[first:] if not line.startswith("─")]
    right = [align == "right" for _, align, _ in html.rows[0]]
    assert right == sorted(right) and right[-1] and not right[0]
    totals = [row[0][2] == "total" for row in html.rows]
    ruled = ["border-top" in style for style in html.styles]
    assert all(rule for rule, total in zip(ruled, totals) if total) and ruled[:2] == [False, True]


def text_rule(text: list[str]) -> str:
    return next(line for line in text if line.startswith("─"))


def test_a_plan_says_what_the_machine_does():
    """GFLOP/s of what is carried out, which Winograd makes less than the definition's."""
    fast = LayerPlan("a", "F(4×4)", "6×32", 9.0, 4.0, 2.0, 8.0)
    slow = LayerPlan("b", "direct 1×1", "6×32", 1.0, 2.0, 3.0, 4.0)
    report = PlanReport("tiny", (3, 32, 40), 1, 1000.0, 15.0, (fast, slow))
    heading, *rows = [line.split() for line in str(report).splitlines() if "─" not in line]
    assert heading == "layer algorithm tile GFLOP computed MB ms GFLOP/s of peak".split()
    assert [row[-3:] for row in rows[:3]] == [
        ["8.00", "500", "50%"], ["4.00", "500", "50%"], ["12.00", "500", "50%"]]
    assert rows[2][:4] == ["total", "10.000", "6.000", "5.00"]


def test_layers_that_diverge_are_marked():
    read = Reader(comparison()._repr_html_())
    assert [row[0][2] for row in read.rows] == ["layer", "a", "b<", "c", "d"]
    assert ["background" in style for style in read.styles] == [False, False, False, True, True]
    assert [row[-1][2] for row in read.rows] == ["", "", "not compared", "◀ first to diverge", "◀"]

"""What both engines share: places in a workspace, plans kept, digests of sources, announcements."""
from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from itertools import combinations, count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npresnet.lower.announcement import Announcement
from npresnet.lower.folding import scale_and_shift
from npresnet.lower.placement import FOREVER, place, up
from npresnet.lower.recent import Recent
from npresnet.lower.sources import digest, named_by_sources


@dataclass(eq=False)
class Block:
    """A tensor to place: `size` floats, in use from operation `first` to `last`."""
    size: int
    first: int
    last: int
    base: int = -1


def bases(*cases: tuple[int, int, int]) -> tuple[list[int], int]:
    """Where blocks (size, first, last) are placed, and the floats needed."""
    blocks = [Block(*case) for case in cases]
    size = place(blocks)
    return [block.base for block in blocks], size


# --- places ---------------------------------------------------------------------------------------


def test_the_largest_goes_first_and_each_as_far_down_as_it_fits():
    """By hand: 50 at the bottom, 40 on it, 30 where 50 was, 20 between 30 and 40, 10 on 50."""
    cases = (10, 0, 0), (40, 1, 3), (20, 3, 3), (50, 0, 1), (30, 2, 3)
    assert bases(*cases) == ([50, 50, 30, 0, 0], 90)


@pytest.mark.parametrize("cases, want, size", [
    ([(7, 0, 5)], [0], 7),
    ([(7, 0, 1), (7, 2, 3)], [0, 0], 7),                          # one after the other
    ([(7, 0, 2), (7, 2, 3)], [0, 7], 14),                         # together in operation 2
    ([(7, 0, 2), (8, 2, 3)], [8, 0], 15),
    ([(5, 0, 9), (5, 0, 9), (5, 0, 9)], [0, 5, 10], 15),          # in the order given
    ([(9, 0, 1), (4, 2, 3), (4, 2, 3), (2, 0, 3)], [0, 0, 4, 9], 11),
    ([(9, 0, 0), (6, 1, 1), (5, 0, 1)], [0, 0, 9], 14),           # 5 meets both: behind the higher
    ([(9, 0, 0), (6, 1, 1), (3, 1, 1)], [0, 0, 6], 9),            # a hole is used
    ([(8, 0, 0), (6, 0, 1), (5, 1, 1), (3, 1, 2)], [0, 8, 0, 5], 14),     # one that fits exactly
    ([(8, 0, 0), (6, 0, 1), (6, 1, 1), (3, 1, 2)], [0, 8, 0, 14], 17),    # one that is too small
    ([(4, 0, FOREVER), (4, 7, FOREVER), (4, 0, 6)], [0, 4, 4], 8),
])
def test_places_by_hand(cases, want, size):
    assert bases(*cases) == (want, size)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9), st.integers(0, 6)), min_size=1,
                max_size=14))
def test_nothing_overlaps_what_is_in_use_together(cases):
    blocks = [Block(size, first, first + more) for size, first, more in cases]
    size = place(iter(blocks))
    for a, b in combinations(blocks, 2):
        together = a.first <= b.last and b.first <= a.last
        assert not together or a.base + a.size <= b.base or b.base + b.size <= a.base
    assert size == max(block.base + block.size for block in blocks)
    assert min(block.base for block in blocks) == 0
    for block in blocks:                                          # nothing hangs in the air
        supports = [other.base + other.size for other in blocks
                    if other.first <= block.last and block.first <= other.last]
        assert block.base in (0, *supports)


@pytest.mark.parametrize("n, to, want", [(0, 16, 0), (1, 16, 16), (16, 16, 16), (17, 16, 32),
                                         (5, 1, 5)])
def test_rounding_up(n, to, want):
    assert up(n, to) == want


# --- what was made last ---------------------------------------------------------------------------


def test_what_was_asked_for_longest_ago_goes():
    made = []

    def make(key):
        made.append(key)
        return key.upper()

    recent: Recent[str] = Recent(3)
    for key in "abcadbe":
        assert recent.get_or_make(key, lambda key=key: make(key)) == key.upper()
    # a b c | a again | d drops b | b again drops c | e drops a
    assert made == list("abcdbe") and list(recent) == ["d", "b", "e"]
    recent.get_or_make("d", lambda: pytest.fail("made again"))
    assert list(recent) == ["b", "e", "d"] and recent["e"] == "E"


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_so_many_are_kept_and_no_more(limit):
    recent: Recent[int] = Recent(limit)
    for i in range(12):
        recent.get_or_make(i, lambda i=i: i * i)
        assert list(recent) == list(range(max(0, i + 1 - limit), i + 1))
    assert recent.limit == limit


def test_what_could_not_be_made_leaves_the_others():
    recent: Recent[int] = Recent(2)
    recent.get_or_make("a", lambda: 1)
    recent.get_or_make("b", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        recent.get_or_make("c", lambda: 1 // 0)
    assert dict(recent) == {"a": 1, "b": 2}
    assert recent.get_or_make("none", lambda: None) is None
    assert recent.get_or_make("none", lambda: pytest.fail("made again")) is None


# --- digests of sources ---------------------------------------------------------------------------


NUMBERS = count()
FILES = {"a.py": "x = 1\n", "b.py": "y = 2\n"}


@pytest.fixture
def digest_of(tmp_path, monkeypatch):
    """A function: the digest of a package made of these files, name → text."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def of(files: dict[str, str]) -> str:
        folder = tmp_path / f"sources{next(NUMBERS)}"             # a digest is kept by this name
        for name, text in ({"__init__.py": ""} | files).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        importlib.invalidate_caches()
        try:
            return digest(folder.name)
        finally:
            sys.modules.pop(folder.name, None)

    return of


@pytest.mark.parametrize("files", [
    {"a.py": "x = 1\n", "b.py": "y = 3\n"},                       # other contents
    {"a.py": "y = 2\n", "b.py": "x = 1\n"},                       # the same contents, exchanged
    {"a.py": "x = 1\n", "c.py": "y = 2\n"},                       # another name
    {"a.py": "x = 1\n"},
    FILES | {"c.py": ""},
    {"a.py": "x = 1\ny", "b.py": " = 2\n"},                       # cut elsewhere
    {"a.py": "x = 1\nb.py\0y = 2\n"},                            # a name among the contents
    FILES | {"__init__.py": "# more\n"},
], ids=str)
def test_names_and_contents_count(digest_of, files):
    assert digest_of(files) != digest_of(FILES)


@pytest.mark.parametrize("more", [
    {}, {"notes.txt": "no source"}, {"inner/c.py": "z = 3\n"}, {"a.pyc": "compiled"},
    {"__pycache__/a.py": "x"},
], ids=str)
def test_nothing_else_counts(digest_of, more):
    assert digest_of(FILES | more) == digest_of(dict(reversed(FILES.items())))


def test_a_digest_is_eight_hexadecimal_digits_and_goes_into_names(digest_of):
    found = digest_of(FILES)
    assert len(found) == 8 and int(found, 16) >= 0

    def some_function():
        """Named anew below."""

    named = named_by_sources(some_function, "npresnet.lower")
    assert named is some_function
    assert named.__qualname__ == f"some_function_{digest('npresnet.lower')}"
    assert digest("npresnet.lower") != digest("npresnet.ops")
    assert (Path(__file__).parents[1] / "npresnet" / "lower").is_dir()


# --- announcements --------------------------------------------------------------------------------


def test_an_announcement_is_made_once_and_at_a_beginning(capsys):
    announcement = Announcement("the engine")
    begin, end = SimpleNamespace(is_start=True), SimpleNamespace(is_start=False)
    announcement.notify(end)
    out, err = capsys.readouterr()
    assert (out, err, announcement.told) == ("", "", False)
    for event in (begin, end, begin, begin, end):
        announcement.notify(event)
    out, err = capsys.readouterr()
    assert out == "" and announcement.told
    assert err == ("npresnet: compiling the engine for this machine; "
                   "this takes some seconds, once\n")
    Announcement("another").notify(begin)
    assert "compiling another" in capsys.readouterr().err


# --- folding --------------------------------------------------------------------------------------


def test_a_batch_norm_as_one_multiplication_and_one_addition():
    """By hand: (x − 3) / √(4 − 1e-5 + 1e-5) · 6 + 1 = 3·x − 8; and in float64."""
    params = {"n.weight": np.array([6.0, 1.0], "f"), "n.bias": np.array([1.0, 0.0], "f"),
              "n.running_mean": np.array([3.0, 0.0], "f"),
              "n.running_var": np.array([4.0 - 1e-5, 0.0])}
    scale, shift = scale_and_shift(params, "n")
    assert scale.dtype == shift.dtype == np.float64
    np.testing.assert_allclose(scale, [3.0, 1e5 ** 0.5], rtol=1e-12)
    np.testing.assert_allclose(shift, [-8.0, 0.0], rtol=1e-12)

"""The questions of the course: of each, what is true of a right answer, and hints for wrong ones.

A right answer is told by what it does, or is computed by the library when it is asked for.
"""
from __future__ import annotations

from course import Question

from . import (
    chapter_2,
    chapter_5,
    chapter_9,
    chapter_12,
    chapters_1_and_7,
    chapters_3_and_4,
)

QUESTIONS: dict[str, Question] = {}
for _chapter in (chapters_1_and_7, chapter_2, chapters_3_and_4, chapter_5, chapter_9, chapter_12):
    QUESTIONS |= _chapter.QUESTIONS

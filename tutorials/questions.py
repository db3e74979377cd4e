"""The questions of the course: of each, what is true of a right answer, and hints for wrong ones.

A right answer is told by what it does, or is computed by the library when it is asked for.
"""
from __future__ import annotations

from course import Question

QUESTIONS: dict[str, Question] = {}

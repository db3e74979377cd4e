"""The questions of the course, a file a chapter: of each, what is true of a right answer, and hints
for wrong ones.

A right answer is told by what it does, or is computed by the library when it is asked for.
"""
from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from course import Question

QUESTIONS: dict[str, Question] = {}
for _chapter in iter_modules(__path__):
    QUESTIONS |= import_module(f"{__name__}.{_chapter.name}").QUESTIONS

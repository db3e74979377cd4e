"""A small picture of each chapter for tutorials/README.md, taken from the chapter's own outputs.

    python tests/course_covers.py

Run it again when a chapter's pictures have changed.
"""
from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
from PIL import Image

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
# Which of a chapter's pictures shows best what it is about, counted from 0.
COVERS = {1: 4, 2: 3, 3: 2, 4: 0, 5: 2, 6: 1, 7: 6, 8: 3, 9: 0, 10: 1, 11: 1, 12: 1, 13: 5}


def pictures(path: Path) -> list[Image.Image]:
    """All pictures among a notebook's outputs, in order."""
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", ()):
            for kind, data in output.get("data", {}).items():
                if kind in ("image/jpeg", "image/png"):
                    found.append(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    return found


def main() -> None:
    (TUTORIALS / "covers").mkdir(exist_ok=True)
    for chapter, number in COVERS.items():
        notebook, = TUTORIALS.glob(f"{chapter:02}_*.ipynb")
        cover = pictures(notebook)[number]
        cover.thumbnail((480, 300), Image.Resampling.LANCZOS)
        path = TUTORIALS / "covers" / f"{chapter:02}.jpg"
        cover.save(path, quality=82, optimize=True)
        print(f"{path.name}: {cover.width}×{cover.height}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

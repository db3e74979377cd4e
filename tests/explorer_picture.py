"""Take the picture of the explorer that the README opens with: tutorials/explorer.jpg.

    pip install playwright          (and Chromium on the path)
    python tests/explorer_picture.py
"""
from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TARGET = ROOT / "tutorials" / "explorer.jpg"
# The likeliest class's activation map, and one number of a 3×3 convolution with its summands.
STATE = """async () => {
  await npresnet.ready;
  npresnet.app.showMap(npresnet.app.order()[0]);
  npresnet.app.choose({path: "stages.0.blocks.0.conv2", channel: 3, row: 14, column: 9});
}"""


def main() -> None:
    from explorer_browser import chromium, shipped_page

    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        page_file = Path(folder) / "explorer.html"
        page_file.write_text(shipped_page(), "utf-8")
        page = browser.new_page(viewport={"width": 1440, "height": 960})
        page.goto(page_file.as_uri())
        page.evaluate(STATE)
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.save(TARGET, quality=82, optimize=True)
    print(f"{TARGET.name}: {picture.width}×{picture.height}, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

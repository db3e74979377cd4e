"""One HTML page that holds a photograph, the demo network and all that explains them.

Nothing in it asks for anything from elsewhere: its content security policy allows its own script
and style, known by their SHA-256, and no connection at all.
"""
from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from ..data import create_transform, resolve_model_data_config
from ..demo import WEIGHTS
from ..images import load_image, orientation, quietly
from ..labels import imagenet_labels, model_labels
from ..model import create_model
from ..sources import Source, open_source

HERE = files(__package__)
PHOTO = HERE / "photo.jpg"                                        # Hadal, public domain
PHOTO_NAME = "two yellow perches"

# Modules in the order in which they are joined: each after those that it imports.
SHARED = ("text", "ops", "network", "safetensors")
WORKER = (*SHARED, "worker")
PAGE = (*SHARED, "preprocessing", "layers", "dom", "colours", "engine", "photo", "answer",
        "experiments", "map", "layer", "agreement", "why", "tour", "app")

PLACES = 256                                                      # of a layer that are compared
LARGEST_PHOTO = 2_000_000                                         # bytes of it in the page
LONGEST = 1200                                                    # pixels, if it is larger
AS_THEY_ARE = {"JPEG", "PNG", "WEBP"}                             # read as Pillow does


def make_page(photo: Source | None = None, name: str | None = None) -> str:
    """The page as HTML, at most 8 MB.

    photo: what `load_image` takes; by default the picture that ships. name: what it is called
    there. A file of more than 2 MB, or one that browsers read otherwise than Pillow, is put in as
    PNG, at most 1,200 pixels long: what the page says of it is about that picture.
    Raises ImageError if the photograph can't be read.
    """
    if photo is None:
        photo, name = PHOTO.read_bytes(), PHOTO_NAME
    data, image = embedded(photo)
    model = create_model("demo", pretrained=True, backend="numpy")
    config = resolve_model_data_config(model)
    x = create_transform(**config)(image)[None]                  # (1, 3, H, W)
    meta, values = digest(model.trace(x))
    about: dict[str, Any] = dict(
        photoName=name or "photo", weightsName="demo.safetensors", downFirst=goes_down_first(),
        labels=[label.name for label in model_labels(model)],
        imagenet=[label.name for label in imagenet_labels()], digest=meta,
        config=dict(size=config["input_size"][-1], cropPct=config["crop_pct"],
                    mean=config["mean"], std=config["std"]))
    script, style = joined(PAGE), (HERE / "style.css").read_text("utf-8")
    policy = ("default-src 'none'; "
              f"script-src 'sha256-{sha256(script)}'; style-src 'sha256-{sha256(style)}'; "
              "worker-src blob:; img-src data:; base-uri 'none'; form-action 'none'")
    # "<" could end the block, wherever a name or a label has it.
    parts = dict(policy=policy, style=style, script=script, worker=joined(WORKER),
                 data=json.dumps(about).replace("<", "\\u003c"),
                 photo=base64.b64encode(data).decode(), digest=base64.b64encode(values).decode(),
                 weights=base64.b64encode(WEIGHTS.read_bytes()).decode())
    template = (HERE / "page.html").read_text("utf-8")
    return re.sub(r"\{(\w+)\}", lambda match: parts[match[1]], template)


def embedded(photo: Source) -> tuple[bytes, Image.Image]:
    """(the bytes that go into the page, what Pillow reads from them)."""
    image = load_image(photo)
    if not (isinstance(photo, Image.Image) or hasattr(photo, "__array__")):
        with open_source(photo) as file:
            given = file.read()
        if len(given) <= LARGEST_PHOTO and _read_alike(given):
            return given, image
    longest = max(image.size)
    while True:
        data = io.BytesIO()
        image.save(data, "PNG")
        if data.tell() <= LARGEST_PHOTO:
            return data.getvalue(), image
        longest = min(LONGEST, longest * 3 // 4)
        image.thumbnail((longest, longest))


def _read_alike(data: bytes) -> bool:
    with quietly(), Image.open(io.BytesIO(data)) as image:
        deep = image.mode.startswith(("I", "F")) or image.mode == "CMYK"
        # Chromium turns no WebP upright, and of a moving PNG it may take another picture.
        turned = image.format != "JPEG" and orientation(image) != 1
        moving = getattr(image, "is_animated", False)
        return image.format in AS_THEY_ARE and not (deep or turned or moving)


def digest(trace: dict[str, np.ndarray]) -> tuple[dict, bytes]:
    """What the page compares itself with: ({layer: {start, places, largest}}, float32 numbers).

    Of a layer with n numbers, those at ⌊(i + ½)·n / places⌋ are taken, places = min(n, 256).
    """
    meta, values, start = {}, [], 0
    for path, y in trace.items():
        flat = y.ravel()
        places = min(PLACES, flat.size)
        at = ((np.arange(places) + 0.5) * flat.size / places).astype(np.int64)
        values.append(flat[at])
        meta[path] = dict(start=start, places=places, largest=float(np.abs(flat).max()))
        start += places
    return meta, np.concatenate(values).astype("<f4").tobytes()


def joined(names: tuple[str, ...]) -> str:
    """The modules as one script that keeps its names to itself: without imports and exports."""
    return "(() => {\n\"use strict\";\n" + "\n".join(map(_module, names)) + "\n})();\n"


@cache
def _module(name: str) -> str:
    source = (HERE / f"{name}.js").read_text("utf-8")
    source = re.sub(r"^import\b[^;]*;\n", "", source, flags=re.MULTILINE)
    return re.sub(r"^export ", "", source, flags=re.MULTILINE)


def goes_down_first() -> bool:
    """Whether this Pillow, where that saves work, shrinks rows before columns: since version 13."""
    noise = np.arange(25 * 90 * 3).reshape(90, 25, 3) * 7919 % 256
    image = Image.fromarray(noise.astype(np.uint8))
    across = image.resize((20, 90), Image.Resampling.BICUBIC)
    across = across.resize((20, 72), Image.Resampling.BICUBIC)
    return image.resize((20, 72), Image.Resampling.BICUBIC).tobytes() != across.tobytes()


def sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

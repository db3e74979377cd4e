"""From pictures to the network's input: timm's evaluation transform.

`create_transform` turns a picture into the network's input as timm does, bit for bit: resize the
short edge, cut out the centre, scale to [0, 1], normalise. `load_image`, which gives such pictures,
stands in `images.py`: timm leaves that to its caller.

Source: timm `data/config.py`, `data/transforms_factory.py`, `data/transforms.py` (1.0.31);
torchvision `transforms/functional.py`.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from .errors import ImageError
from .images import load_image as load_image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INTERPOLATIONS = {mode.name.lower(): mode for mode in Image.Resampling}
CROP_MODES = ("center", "squash", "border")
DEFAULTS: dict[str, Any] = dict(interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD,
                                crop_pct=0.875, crop_mode="center")


class Configured(Protocol):
    """A model, as far as its pictures are concerned."""

    @property
    def pretrained_cfg(self) -> Mapping[str, Any]:
        """How its weights want pictures, under timm's keys."""


def resolve_model_data_config(model: Configured, args: Mapping[str, Any] | None = None,
                              pretrained_cfg: Mapping[str, Any] | None = None,
                              use_test_size: bool = False) -> dict[str, Any]:
    """How `model` wants its pictures: the keyword arguments of `create_transform`.

    As timm's function of that name.
    use_test_size: the larger size that the weights were evaluated at, where there is one (288 for
    resnetv2_50.a1h_in1k).
    args: values to use instead (input_size, img_size, in_chans, interpolation, mean, std, crop_pct,
    crop_mode); pretrained_cfg: a configuration to use instead of the model's.
    """
    cfg = pretrained_cfg or model.pretrained_cfg
    return resolve_data_config(args, cfg, use_test_size=use_test_size)


def resolve_data_config(args: Mapping[str, Any] | None = None,
                        pretrained_cfg: Mapping[str, Any] | None = None,
                        model: Configured | None = None,
                        use_test_size: bool = False) -> dict[str, Any]:
    """As `resolve_model_data_config`, from a configuration.

    Raises ValueError if a value doesn't fit.
    """
    args = {key: value for key, value in (args or {}).items() if value is not None}
    cfg = dict(pretrained_cfg or (model.pretrained_cfg if model is not None else {}))
    if use_test_size:
        for key in ("test_input_size", "test_crop_pct"):
            if cfg.get(key):
                cfg[key.removeprefix("test_")] = cfg[key]
    channels = args.get("in_chans", args.get("chans", 3))
    size, edge = args.get("input_size"), args.get("img_size")
    if edge and not size:
        size = (channels, edge, edge)
    size = tuple(size or cfg.get("input_size") or (channels, 224, 224))
    if len(size) != 3:
        raise ValueError(f"input_size must be (channels, height, width), not {size}")
    config: dict[str, Any] = dict(input_size=size)
    for key, default in DEFAULTS.items():
        value = args.get(key) or cfg.get(key) or default
        if key in ("mean", "std") and key in args:
            value = tuple(value) * (size[0] if len(value) == 1 else 1)
            if len(value) != size[0]:
                raise ValueError(f"{key} has {len(value)} values for {size[0]} channels")
        config[key] = value
    return config


def create_transform(input_size: int | tuple[int, ...] = 224, is_training: bool = False,
                     interpolation: str = "bilinear", mean: tuple[float, ...] = IMAGENET_MEAN,
                     std: tuple[float, ...] = IMAGENET_STD, crop_pct: float | None = None,
                     crop_mode: str | None = None, normalize: bool = True) -> EvalTransform:
    """timm's evaluation transform: a function from a PIL picture to an array (C, H, W).

    It is usually made by `create_transform(**data_config)`.
    input_size: an edge, (H, W) or (C, H, W). crop_pct: the share of the resized picture that is
    kept. crop_mode: "center" (short edge resized, the rest cut off), "squash" (aspect ratio given
    up), "border" (long edge resized, the rest filled with the mean). normalize=False gives the
    uint8 pixels.
    Raises ValueError on a bad value, and for is_training=True: npresnet doesn't train.
    """
    if is_training:
        raise ValueError("npresnet has no training transforms: give is_training=False")
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)[-2:]
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"unknown interpolation {interpolation!r}: "
                         f"choose one of {', '.join(INTERPOLATIONS)}")
    if (crop_mode or "center") not in CROP_MODES:
        raise ValueError(f"unknown crop_mode {crop_mode!r}: choose one of {', '.join(CROP_MODES)}")
    bad_crop = crop_pct is not None and not crop_pct > 0
    if len(size) != 2 or min(size) < 1 or bad_crop or len(mean) != len(std):
        raise ValueError(f"bad transform: input_size {input_size}, crop_pct {crop_pct}, "
                         f"mean {mean}, std {std}")
    return EvalTransform(size, crop_pct or 0.875, crop_mode or "center", interpolation,
                         tuple(mean), tuple(std), normalize)


@dataclass(frozen=True)
class EvalTransform:
    """A picture → the network's input.

    `crop` gives the pixels (PIL), a call the array; both leave the picture as it is.
    """
    size: tuple[int, int]
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalize: bool = True

    @property
    def draft_size(self) -> tuple[int, int]:
        """(width, height) to ask `load_image(…, draft=…)` for: twice the size before the cut.

        A JPEG decoder averages as it shrinks, and at least half of the way is left for `crop`. On
        20 photographs of 12 megapixels, cut to 224 pixels: 32 ms instead of 267 for both, pixels
        0.4 of 255 off on average. Cut to 160, one of them was 10 off: a fine pattern, whose long
        edge had been rounded otherwise, so that the cut lay a pixel further.
        """
        h, w = self.size
        return 2 * math.floor(w / self.crop_pct), 2 * math.floor(h / self.crop_pct)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """A picture with 8 bits a band (RGB as a rule) → (C, H, W) float32.

        The numbers are (pixel / 255 − mean) / std, or the uint8 pixels if not `normalize`.
        Raises ValueError if the picture's bands don't fit `mean`: convert it first,
        image.convert("RGB").
        """
        bands = len(image.getbands())
        eight_bits = image.mode not in ("I", "F", "P", "1") and not image.mode.startswith("I;")
        if bands != len(self.mean) or not eight_bits:
            raise ValueError(f"expected a picture of {len(self.mean)} bands with 8 bits each, "
                             f"got mode {image.mode!r}; convert it with image.convert('RGB')")
        pixels = np.asarray(self.crop(image)).reshape(*self.size, bands)    # (H, W, C) uint8
        pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))            # (C, H, W) uint8
        return self.scale(pixels) if self.normalize else pixels

    def scale(self, pixels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Pixels (C, H, W) uint8, as the transform gives them without `normalize` → the network's
        input (C, H, W) float32: (pixel / 255 − mean) / std, into `out` if that is given."""
        x: np.ndarray = np.divide(pixels, np.float32(255), out=out, dtype=np.float32)
        mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (self.mean, self.std))
        x -= mean
        x /= std
        return x

    def crop(self, image: Image.Image) -> Image.Image:
        """The picture resized and cut to `size`: what the network sees, before any arithmetic.

        Raises ImageError if it is so thin that, resized, it would have more pixels than Pillow's
        limit.
        """
        h, w = self.size
        resized = self._resized(image)
        fill: int | tuple[int, ...] = 0
        if self.crop_mode == "border":
            fill = tuple(round(255 * m) for m in self.mean)
        if resized != (image.height, image.width):
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and resized[0] * resized[1] > limit:
                raise ImageError(f"is too thin ({image.width}×{image.height}): "
                                 f"resized to {resized[1]}×{resized[0]} it would have more pixels "
                                 f"than the limit of {limit:,}; cut it first")
            image = image.resize((resized[1], resized[0]), INTERPOLATIONS[self.interpolation])
        return _centre_crop(image, h, w, fill)

    def seen(self, image: Image.Image) -> tuple[float, float, float, float]:
        """The part of `image` that `crop` shows: (left, top, right, bottom) in pixels of `image`.

        These are edges, not numbers of pixels: the whole picture is (0, 0, width, height). They lie
        outside of it where `crop` adds a border.
        """
        h, w = self.size
        height, width = self._resized(image)
        across, down = image.width / width, image.height / height           # pixels a resized pixel
        # As _centre_crop: what is cut off, or less than 0 for a border.
        top = round((height - h) / 2) if height >= h else -((h - height) // 2)
        left = round((width - w) / 2) if width >= w else -((w - width) // 2)
        return left * across, top * down, (left + w) * across, (top + h) * down

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        """(height, width) of `image` before the cut."""
        h, w = self.size
        scale = math.floor(h / self.crop_pct), math.floor(w / self.crop_pct)
        if self.crop_mode == "squash":
            return scale
        if self.crop_mode == "border":
            return _keep_ratio(image, scale, max)
        if scale[0] != scale[1]:
            return _keep_ratio(image, scale, min)
        short, long = sorted(image.size)
        long = int(scale[0] * long / short)                         # cut off, not rounded
        return (long, scale[0]) if image.width <= image.height else (scale[0], long)


def _keep_ratio(image: Image.Image, scale: tuple[int, int],
                fit: Callable[[float, float], float]) -> tuple[int, int]:
    """(height, width) of `image` resized until one of its edges fits `scale`.

    That edge is the larger one, relative to `scale`, with fit=max, and the smaller one with min.
    """
    ratio = fit(image.height / scale[0], image.width / scale[1])
    return round(image.height / ratio), round(image.width / ratio)


def _centre_crop(image: Image.Image, h: int, w: int,
                 fill: int | tuple[int, ...]) -> Image.Image:
    """The h×w pixels in the middle.

    A smaller picture gets a border of `fill` first, the odd pixel right and below.
    """
    across, down = max(w - image.width, 0), max(h - image.height, 0)
    if across or down:
        border = (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2)
        image = ImageOps.expand(image, border, fill)
    top = int(round((image.height - h) / 2.0))                      # half to even
    left = int(round((image.width - w) / 2.0))
    return image if image.size == (w, h) else image.crop((left, top, left + w, top + h))

"""The family: which ResNetV2 there are, and how their published weights want pictures.

A `Variant` is all that tells one BatchNorm ResNetV2 from another. `network.py` runs it, `graph.py`
lists its steps.
Source: timm `models/resnetv2.py` (1.0.31); He et al. 2016, "Identity Mappings in Deep Residual
Networks", arXiv 1603.05027.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

BOTTLENECK, BASIC = "bottleneck", "basic"
COUNTER = "num_batches_tracked"
GLOBAL_POOLS = ("avg", "max", "avgmax", "catavgmax", "")


@dataclass(frozen=True)
class Variant:
    """One member of the family.

    depths: blocks a stage. block: "bottleneck" (1×1, 3×3, 1×1) or "basic" (3×3, 3×3).
    stem: "" is one 7×7 convolution, "deep" and "tiered" are three 3×3.
    avg_down: average pool before the shortcut's 1×1.
    width: a factor on all channels (rounded to multiples of 8, as timm's `width_factor`).
    """
    name: str
    depths: tuple[int, ...]
    block: str = BOTTLENECK
    stem: str = ""
    avg_down: bool = False
    width: float = 1.0

    @property
    def stem_channels(self) -> tuple[int, ...]:
        """Output channels of the stem's convolutions: one, or three."""
        c = make_divisible(64 * self.width)
        return {"": (c,), "deep": (c // 2, c // 2, c), "tiered": (3 * c // 8, c // 2, c)}[self.stem]

    @property
    def stem_convs(self) -> tuple[str, ...]:
        """Paths of the stem's convolutions; the last one is the first feature map."""
        return ("stem.conv1", "stem.conv2", "stem.conv3") if self.stem else ("stem.conv",)

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels of the four stages."""
        first = 256 if self.block == BOTTLENECK else 64
        return tuple(make_divisible(first * 2**i * self.width) for i in range(len(self.depths)))

    def stages(self, output_stride: int = 32) -> list[StagePlan]:
        """The four stages' channels, strides and dilations.

        With `output_stride` 16 or 8 a stage that would go below it keeps its pixels and spreads its
        3×3 kernels instead; the first block of a stage still sees its input at the dilation of the
        stage before.
        Raises ValueError for another `output_stride`.
        """
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 32, 16 or 8, not {output_stride!r}")
        plans: list[StagePlan] = []
        c_in, reduction, dilation = self.stem_channels[-1], 4, 1
        for depth, c_out in zip(self.depths, self.channels):
            stride = 2 if plans else 1
            if reduction >= output_stride:
                dilation, stride = dilation * stride, 1
            reduction *= stride
            mid = make_divisible(c_out / 4) if self.block == BOTTLENECK else c_out
            first_dilation = 1 if dilation <= 2 else 2
            plans.append(StagePlan(depth, c_in, mid, c_out, stride, dilation, first_dilation,
                                   reduction))
            c_in = c_out
        return plans

    def has_downsample(self, stage: StagePlan) -> bool:
        """Whether the stage's first block has a 1×1 on its shortcut: always for bottlenecks, else
        where a shape changes."""
        changes = stage.stride != 1 or stage.c_in != stage.c_out
        return self.block == BOTTLENECK or changes or stage.first_dilation != stage.dilation


@dataclass(frozen=True)
class StagePlan:
    """One stage: `depth` blocks from c_in over mid to c_out channels.

    The first block has `stride` and `first_dilation`, the others stride 1 and `dilation`;
    `reduction` is how many picture pixels one of its output pixels stands for, along one axis.
    """
    depth: int
    c_in: int
    mid: int
    c_out: int
    stride: int
    dilation: int
    first_dilation: int
    reduction: int


def make_divisible(channels: float, divisor: int = 8) -> int:
    """`channels` rounded to a multiple of `divisor`, but never to less than 90 % of it.

    Source: timm `layers/helpers.py`.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_padding(kernel: int, stride: int = 1, dilation: int = 1) -> int:
    """timm's static symmetric padding: 7×7 → 3, 3×3 → 1 (times the dilation), 1×1 → 0."""
    return ((stride - 1) + dilation * (kernel - 1)) // 2


VARIANTS = {v.name: v for v in (
    Variant("resnetv2_18", (2, 2, 2, 2), BASIC),
    Variant("resnetv2_18d", (2, 2, 2, 2), BASIC, "deep", True),
    Variant("resnetv2_34", (3, 4, 6, 3), BASIC),
    Variant("resnetv2_34d", (3, 4, 6, 3), BASIC, "deep", True),
    Variant("resnetv2_50", (3, 4, 6, 3)),
    Variant("resnetv2_50d", (3, 4, 6, 3), stem="deep", avg_down=True),
    Variant("resnetv2_50t", (3, 4, 6, 3), stem="tiered", avg_down=True),
    Variant("resnetv2_101", (3, 4, 23, 3)),
    Variant("resnetv2_101d", (3, 4, 23, 3), stem="deep", avg_down=True),
    Variant("resnetv2_152", (3, 8, 36, 3)),
    Variant("resnetv2_152d", (3, 8, 36, 3), stem="deep", avg_down=True),
)}
DEMO = replace(VARIANTS["resnetv2_50"], name="demo", width=0.25)

# What the weights published under a tag want of their pictures, beyond the defaults in
# `pretrained_cfg`. The hub's config.json lacks the test sizes; these are timm's registry's.
_RA4: dict[str, Any] = dict(crop_pct=0.9, test_input_size=(3, 288, 288), test_crop_pct=1.0)
_A1H: dict[str, Any] = dict(crop_pct=0.95, test_input_size=(3, 288, 288), test_crop_pct=1.0)
PRETRAINED = {
    "resnetv2_18.ra4_e3600_r224_in1k": _RA4,
    "resnetv2_18d.ra4_e3600_r224_in1k": _RA4,
    "resnetv2_34.ra4_e3600_r224_in1k": _RA4,
    "resnetv2_34d.ra4_e3600_r224_in1k": _RA4,
    "resnetv2_34d.ra4_e3600_r384_in1k": dict(
        crop_pct=1.0, input_size=(3, 384, 384), pool_size=(12, 12), test_input_size=(3, 448, 448)),
    "resnetv2_50.a1h_in1k": _A1H,
    "resnetv2_101.a1h_in1k": _A1H,
}


def list_models(pretrained: bool = False) -> list[str]:
    """Names that `create_model` takes: the variants and "demo"; with `pretrained` those with
    trained weights, tag included."""
    return ["demo", *(PRETRAINED if pretrained else VARIANTS)]


def split_revision(name: str) -> tuple[str, str | None]:
    """A model's name and the revision of its published weights, which may stand behind an "@", as
    in timm: "resnetv2_50.a1h_in1k@main" → ("resnetv2_50.a1h_in1k", "main").

    Raises ValueError if what stands there can't be a revision.
    """
    model, at, revision = str(name).partition("@")
    if at and (not re.fullmatch(r"[\w.+-]+(/[\w.+-]+)*", revision) or ".." in revision):
        raise ValueError(f"bad revision in {name!r}: give a commit, a tag or a branch of "
                         "its repository on the hub")
    return model, revision if at else None


def find_variant(name: str) -> tuple[Variant, str]:
    """The variant called `name`, and its tag: "resnetv2_50.a1h_in1k" → (resnetv2_50, "a1h_in1k").

    Without a tag it is that of the first published weights, "untrained" if there are none. timm's
    prefix "timm/" may stand before it.
    Raises ValueError with the names that exist.
    """
    architecture, _, tag = str(name).removeprefix("timm/").partition(".")
    if architecture == DEMO.name and not tag:
        return DEMO, ""
    published = [full.partition(".") for full in PRETRAINED]
    tags = [its for name_of, _, its in published if name_of == architecture] or ["untrained"]
    if architecture not in VARIANTS or (tag and tag not in tags):
        known = [f"{architecture}.{t}" for t in tags] if architecture in VARIANTS else list_models()
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(known)}")
    return VARIANTS[architecture], tag or tags[0]


def pretrained_cfg(variant: Variant, tag: str, **changes: Any) -> dict[str, Any]:
    """How the weights of `variant` under `tag` want their pictures, with timm's keys."""
    name = f"{variant.name}.{tag}"
    cfg: dict[str, Any] = dict(
        architecture=variant.name, tag=tag, num_classes=1000, input_size=(3, 224, 224),
        pool_size=(7, 7), crop_pct=0.875, crop_mode="center", interpolation="bicubic",
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), first_conv=variant.stem_convs[0],
        classifier="head.fc", license="apache-2.0")
    if name in PRETRAINED:
        cfg["hf_hub_id"] = f"timm/{name}"
    return cfg | PRETRAINED.get(name, {}) | changes


class FeatureInfo(list[dict[str, Any]]):
    """timm's feature_info: a dict (num_chs, reduction, module, index) for each of the five feature
    maps, and those put out."""

    def __init__(self, info: list[dict[str, Any]], out_indices: Sequence[int]):
        super().__init__(info)
        self.out_indices = tuple(out_indices)

    def channels(self) -> list[int]:
        """Channels of the maps put out."""
        return [self[i]["num_chs"] for i in self.out_indices]

    def reduction(self) -> list[int]:
        """Picture pixels for one map pixel along one axis, of the maps put out."""
        return [self[i]["reduction"] for i in self.out_indices]

    def module_name(self) -> list[str]:
        """Paths of the modules whose raw outputs the maps are."""
        return [self[i]["module"] for i in self.out_indices]


def take_indices(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Which of `count` maps are meant, in the network's order: None all, n the last n, or numbers,
    negative ones from the end.

    Raises ValueError if one is out of range or there are none.
    """
    if indices is None:
        return list(range(count))
    if isinstance(indices, (int, np.integer)):
        if not 1 <= indices <= count:
            raise ValueError(f"the last {indices} maps were asked for: choose 1 to {count}")
        return list(range(count - indices, count))
    taken = sorted({i + count if i < 0 else i for i in indices})
    if not taken or taken[0] < 0 or taken[-1] >= count:
        raise ValueError(f"feature maps {list(indices)} were asked for: choose from {-count} to "
                         f"{count - 1}")
    return taken

"""Names, tags and widths: what timm's registry says of a model before it is made."""
from __future__ import annotations

import pytest

from npresnet.variants import VARIANTS, find_variant, make_divisible, pretrained_cfg


@pytest.mark.parametrize("name, tag", [
    ("resnetv2_50", "a1h_in1k"),
    ("resnetv2_34d", "ra4_e3600_r224_in1k"),                      # of two, timm's default
    ("resnetv2_34d.ra4_e3600_r384_in1k", "ra4_e3600_r384_in1k"),
    ("resnetv2_50d", "untrained"),
    ("demo", ""),
])
def test_the_tag_of_a_name(name, tag):
    variant, found = find_variant(name)
    assert (variant.name, found) == (name.partition(".")[0], tag)


def test_what_is_published_where():
    cfg = pretrained_cfg(*find_variant("resnetv2_34d"))
    assert cfg["hf_hub_id"] == "timm/resnetv2_34d.ra4_e3600_r224_in1k"
    assert cfg["input_size"] == (3, 224, 224) and cfg["architecture"] == "resnetv2_34d"
    assert "hf_hub_id" not in pretrained_cfg(*find_variant("resnetv2_50d"))


def test_the_first_convolution_and_the_classifier_are_named():
    for name, variant in VARIANTS.items():
        cfg = pretrained_cfg(variant, "untrained")
        first = "stem.conv1" if name.endswith(("d", "t")) else "stem.conv"
        assert (cfg["first_conv"], cfg["classifier"]) == (first, "head.fc")


@pytest.mark.parametrize("channels, rounded", [
    (1, 8), (8, 8), (8.8, 8), (11, 16), (12, 16), (16, 16), (17.5, 16), (19, 24), (64, 64)])
def test_channels_are_multiples_of_8_and_never_under_90_percent(channels, rounded):
    assert make_divisible(channels) == rounded

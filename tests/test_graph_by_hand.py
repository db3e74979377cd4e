"""The graph's steps and what it tells of them, by hand, for resnetv2_18 and resnetv2_50."""
from __future__ import annotations

import pytest

from npresnet.graph import FeatureMap, Step, build_graph
from npresnet.variants import VARIANTS

R18 = build_graph(VARIANTS["resnetv2_18"])
R18D = build_graph(VARIANTS["resnetv2_18d"])
R50 = build_graph(VARIANTS["resnetv2_50"])
R50_APART = build_graph(VARIANTS["resnetv2_50"], fold_norms=False)
EMBEDDINGS = build_graph(VARIANTS["resnetv2_18"], num_classes=0, output_stride=8)

# kind, path, source, channels in and out, kernel, stride, padding, shortcut, block, norm;
# sM.N is stages.M.blocks.N, and down its downsample.conv
STEPS_18 = """
conv        stem.conv        picture            3   64 7 2 3 -         -    -
max_pool    stem.pool        stem.conv         64   64 3 2 1 -         -    s0.0.norm1
conv        s0.0.conv1       s0.0.norm1        64   64 3 1 1 -         -    s0.0.norm2
conv        s0.0.conv2       s0.0.norm2        64   64 3 1 1 stem.pool s0.0 s0.1.norm1
conv        s0.1.conv1       s0.1.norm1        64   64 3 1 1 -         -    s0.1.norm2
conv        s0.1.conv2       s0.1.norm2        64   64 3 1 1 s0.0      s0.1 s1.0.norm1
conv        s1.0.conv1       s1.0.norm1        64  128 3 2 1 -         -    s1.0.norm2
conv        s1.0.down        s1.0.norm1        64  128 1 2 0 -         -    -
conv        s1.0.conv2       s1.0.norm2       128  128 3 1 1 s1.0.down s1.0 s1.1.norm1
conv        s1.1.conv1       s1.1.norm1       128  128 3 1 1 -         -    s1.1.norm2
conv        s1.1.conv2       s1.1.norm2       128  128 3 1 1 s1.0      s1.1 s2.0.norm1
conv        s2.0.conv1       s2.0.norm1       128  256 3 2 1 -         -    s2.0.norm2
conv        s2.0.down        s2.0.norm1       128  256 1 2 0 -         -    -
conv        s2.0.conv2       s2.0.norm2       256  256 3 1 1 s2.0.down s2.0 s2.1.norm1
conv        s2.1.conv1       s2.1.norm1       256  256 3 1 1 -         -    s2.1.norm2
conv        s2.1.conv2       s2.1.norm2       256  256 3 1 1 s2.0      s2.1 s3.0.norm1
conv        s3.0.conv1       s3.0.norm1       256  512 3 2 1 -         -    s3.0.norm2
conv        s3.0.down        s3.0.norm1       256  512 1 2 0 -         -    -
conv        s3.0.conv2       s3.0.norm2       512  512 3 1 1 s3.0.down s3.0 s3.1.norm1
conv        s3.1.conv1       s3.1.norm1       512  512 3 1 1 -         -    s3.1.norm2
conv        s3.1.conv2       s3.1.norm2       512  512 3 1 1 s3.0      s3.1 norm
global_pool head.global_pool norm             512  512 1 1 0 -         -    -
conv        head.fc          head.global_pool 512 1000 1 1 0 -         -    -
"""
# The first stage of resnetv2_50, and how its second begins.
STEPS_50 = """
conv     stem.conv  picture      3  64 7 2 3 -         -    -
max_pool stem.pool  stem.conv   64  64 3 2 1 -         -    s0.0.norm1
conv     s0.0.conv1 s0.0.norm1  64  64 1 1 0 -         -    s0.0.norm2
conv     s0.0.conv2 s0.0.norm2  64  64 3 1 1 -         -    s0.0.norm3
conv     s0.0.down  s0.0.norm1  64 256 1 1 0 -         -    -
conv     s0.0.conv3 s0.0.norm3  64 256 1 1 0 s0.0.down s0.0 s0.1.norm1
conv     s0.1.conv1 s0.1.norm1 256  64 1 1 0 -         -    s0.1.norm2
conv     s0.1.conv2 s0.1.norm2  64  64 3 1 1 -         -    s0.1.norm3
conv     s0.1.conv3 s0.1.norm3  64 256 1 1 0 s0.0      s0.1 s0.2.norm1
conv     s0.2.conv1 s0.2.norm1 256  64 1 1 0 -         -    s0.2.norm2
conv     s0.2.conv2 s0.2.norm2  64  64 3 1 1 -         -    s0.2.norm3
conv     s0.2.conv3 s0.2.norm3  64 256 1 1 0 s0.1      s0.2 s1.0.norm1
conv     s1.0.conv1 s1.0.norm1 256 128 1 1 0 -         -    s1.0.norm2
conv     s1.0.conv2 s1.0.norm2 128 128 3 2 1 -         -    s1.0.norm3
conv     s1.0.down  s1.0.norm1 256 512 1 2 0 -         -    -
conv     s1.0.conv3 s1.0.norm3 128 512 1 1 0 s1.0.down s1.0 s1.1.norm1
"""
MAPS = ["stem.conv", "stages.0", "stages.1", "stages.2", "stages.3"]


def full(name: str) -> str:
    """s1.0.conv2 → stages.1.blocks.0.conv2, s1.0.down → ….downsample.conv, - → nothing."""
    if name == "-":
        return ""
    if name[:1] == "s" and name[1].isdigit():
        stage, rest = name[1:].split(".", 1)
        return f"stages.{stage}.blocks.{rest}".replace(".down", ".downsample.conv")
    return name


def steps_of(text: str) -> list[Step]:
    steps = []
    for line in text.strip().splitlines():
        kind, path, source, *numbers, shortcut, block, norm = line.split()
        c_in, c_out, kernel, stride, padding = map(int, numbers)
        steps.append(Step(kind, full(path), full(source), c_in, c_out, kernel, stride, padding,
                          bias=path == "head.fc", shortcut=full(shortcut), block=full(block),
                          norm=full(norm)))
    return steps


def paths(steps) -> list[str]:
    return [step.path for step in steps]


# --- steps ----------------------------------------------------------------------------------------


def test_all_steps_of_resnetv2_18():
    assert list(R18.steps) == steps_of(STEPS_18)


def test_the_first_stage_of_resnetv2_50():
    wanted = steps_of(STEPS_50)
    assert list(R50.steps[:len(wanted)]) == wanted
    assert len(R50.steps) == 2 + 16 * 3 + 4 + 2
    assert len(R50.layers) == 53 + 1 + 49 + 16 + 4 + 2            # convs, pool, norms, sums, …
    assert len(R50_APART.steps) == 2 + 16 * 3 + 4 + 49 + 2


def test_dilated_stages_of_resnetv2_18():
    """With output_stride 8 the last two stages keep their pixels; a first block lags behind."""
    found = {step.path: (step.stride, step.padding, step.dilation) for step in EMBEDDINGS.steps
             if step.path.startswith(("stages.1.blocks.0", "stages.2", "stages.3"))}
    assert found == {full(path): geometry for path, geometry in {
        "s1.0.conv1": (2, 1, 1), "s1.0.down": (2, 0, 1), "s1.0.conv2": (1, 1, 1),
        "s2.0.conv1": (1, 1, 1), "s2.0.down": (1, 0, 1), "s2.0.conv2": (1, 2, 2),
        "s2.1.conv1": (1, 2, 2), "s2.1.conv2": (1, 2, 2),
        "s3.0.conv1": (1, 2, 2), "s3.0.down": (1, 0, 1), "s3.0.conv2": (1, 4, 4),
        "s3.1.conv1": (1, 4, 4), "s3.1.conv2": (1, 4, 4)}.items()}


# --- what it tells of them ------------------------------------------------------------------------


def test_feature_maps_aliases_and_ends():
    assert R50.feature_maps == tuple(map(FeatureMap, MAPS, (64, 256, 512, 1024, 2048),
                                         (2, 4, 8, 16, 32)))
    assert R18D.feature_maps[0] == FeatureMap("stem.conv3", 64, 2)
    assert [each.reduction for each in EMBEDDINGS.feature_maps] == [2, 4, 8, 8, 8]
    assert R50.aliases == {"stages.0": full("s0.2"), "stages.1": full("s1.3"),
                           "stages.2": full("s2.5"), "stages.3": full("s3.2")}
    assert (R50.last, EMBEDDINGS.last) == ("head.fc", "head.global_pool")


@pytest.mark.parametrize("take, norm, stop_early, wanted", [
    ([0], False, True, (["stem.conv"], "stem.pool")),
    ([0], False, False, (["stem.conv"], "norm")),
    ([0, 2], False, True, (["stem.conv", "stages.1"], "stages.1")),
    ([0, 2], True, True, (["stem.conv", "stages.1"], "stages.1")),
    ([1], True, False, (["stages.0"], "norm")),
    ([3], False, True, (["stages.2"], "stages.2")),
    ([4], False, True, (["stages.3"], "norm")),
    ([4], True, True, (["norm"], "norm")),
    ([1, 4], False, False, (["stages.0", "stages.3"], "norm")),
    ([0, 1, 2, 3, 4], True, False, ([*MAPS[:4], "norm"], "norm")),
])
def test_taps(take, norm, stop_early, wanted):
    for graph, stem in ((R18, "stem.conv"), (R50, "stem.conv"), (R18D, "stem.conv3")):
        maps, last = wanted
        maps = [stem if path == "stem.conv" else path for path in maps]
        assert graph.taps(take, norm, stop_early) == (maps, last)


@pytest.mark.parametrize("graph, wanted, last", [
    (R18, ["stem.conv"], "stem.conv"),
    (R18, [full("s0.0.norm1")], "stem.pool"),
    (R18, [full("s0.0")], full("s0.0.conv2")),
    (R18, [full("s0.0.norm2"), "stem.conv"], full("s0.0.conv1")),
    (R18, [full("s1.0.conv1")], full("s1.0.conv1")),
    (R18, [full("s1.0.down")], full("s1.0.down")),
    (R18, [full("s3.1")], full("s3.1.conv2")),
    (R18, ["norm"], full("s3.1.conv2")),
    (R18, ["head.global_pool", "stem.conv"], "head.global_pool"),
    (R18, ["head.fc"], "head.fc"),
    (R50, [full("s0.2"), full("s1.3")], full("s1.3.conv3")),
    (R50, [full("s0.1.norm1")], full("s0.0.conv3")),
    (R50_APART, [full("s0.1.norm1")], full("s0.1.norm1")),
    (R50_APART, ["norm"], "norm"),
    (R50_APART, [full("s0.0")], full("s0.0.conv3")),
], ids=str)
def test_steps_to(graph, wanted, last):
    all_paths = paths(graph.steps)
    assert paths(graph.steps_to(wanted)) == all_paths[:all_paths.index(last) + 1]
    assert graph.steps_to(set(wanted)) == graph.steps_to(wanted)


def test_in_order():
    """By all their names, in forward order; what wasn't found is left out."""
    found = {full("s1.1"): "b", "stem.conv": "a", "norm": "c", full("s0.1.norm1"): "d"}
    wanted = {"stem.conv": "a", full("s0.1.norm1"): "d", full("s1.1"): "b", "stages.1": "b",
              "norm": "c"}
    assert list(R18.in_order(found).items()) == list(wanted.items())
    assert R18.in_order({}) == {} and R18.in_order({"picture": "x"}) == {}
    assert R50.in_order({full("s1.1"): 1}) == {full("s1.1"): 1}   # not its stage's last block
    assert list(R50.in_order({full("s0.0.down"): 2, full("s0.0.conv3"): 1})) == [
        full("s0.0.conv3"), full("s0.0.down")]


def test_borders():
    """3 pixels before a 7×7, 1 before a 3×3, more if it is dilated, 0 before a 1×1."""
    threes = [full(f"s{s}.{b}.norm{n}") for s in range(4) for b in (0, 1) for n in (1, 2)]
    assert R18.borders == dict.fromkeys(threes, 1) | {"picture": 3, "head.global_pool": 0}
    assert R18D.borders == dict.fromkeys(threes, 1) | {
        "picture": 1, "stem.norm1": 1, "stem.norm2": 1, "head.global_pool": 0} | {
        f"stages.{s}.blocks.0.downsample.pool": 0 for s in (1, 2, 3)}
    assert EMBEDDINGS.borders == dict.fromkeys(threes, 1) | {"picture": 3} | dict.fromkeys(
        [full(path) for path in ("s2.0.norm2", "s2.1.norm1", "s2.1.norm2", "s3.0.norm1")], 2
    ) | dict.fromkeys([full(path) for path in ("s3.0.norm2", "s3.1.norm1", "s3.1.norm2")], 4)
    blocks = [(s, b) for s, depth in enumerate((3, 4, 6, 3)) for b in range(depth)]
    borders = {full(f"s{s}.{b}.norm{n}"): int(n == 2) for s, b in blocks for n in (1, 2, 3)}
    assert R50.borders == borders | {"picture": 3, "head.global_pool": 0}


def test_folds():
    """All that is needed of a block's inner convolutions is their norm; of a sum more."""
    inner = [full(f"s{s}.{b}.conv1") for s in range(4) for b in (0, 1)]
    assert [step.path for step in R18.steps if R18.folds(step)] == inner
    blocks = [(s, b) for s, depth in enumerate((3, 4, 6, 3)) for b in range(depth)]
    inner = [full(f"s{s}.{b}.conv{n}") for s, b in blocks for n in (1, 2)]
    # The first block projects its shortcut, so nobody reads the raw pool either.
    assert [step.path for step in R50.steps if R50.folds(step)] == ["stem.pool", *inner]
    assert not any(R50_APART.folds(step) for step in R50_APART.steps)
    assert [step.path for step in R18D.steps if R18D.folds(step)][:3] == [
        "stem.conv1", "stem.conv2", full("s0.0.conv1")]


def test_shapes():
    shapes = R50.shapes(224, 224)
    assert [shapes[path] for path in MAPS] == [
        (64, 112, 112), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]
    assert (shapes["head.global_pool"], shapes["head.fc"]) == ((2048, 1, 1), (1000, 1, 1))
    odd = R18D.shapes(75, 98)
    assert [odd[path] for path in ("stem.conv1", "stem.pool", "stages.1", "norm")] == [
        (32, 38, 49), (64, 19, 25), (128, 10, 13), (512, 3, 4)]
    assert EMBEDDINGS.shapes(64, 64)["norm"] == (512, 8, 8)


def test_an_unknown_output_stride_is_refused():
    for output_stride in (4, 0, 64):
        with pytest.raises(ValueError, match="output_stride must be 32, 16 or 8"):
            build_graph(VARIANTS["resnetv2_18"], output_stride=output_stride)

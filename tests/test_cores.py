"""How many threads an engine starts by itself."""
from __future__ import annotations

from pathlib import Path

import pytest

from npresnet.fast.engine import Engine
from npresnet.lower import cores as module
from npresnet.lower.cores import cgroup_limit, cores, default_threads


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


@pytest.mark.parametrize("own, files, want", [
    ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    ("0::/\n", {}, None),
    ("", {"cpu.max": "150000 100000\n"}, None),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000",
                   "cpu.max": "300000 100000"}, 2.0),             # the least of those around it
    ("0::/a/b\n", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "200000 100000"}, 0.5),
    ("0::/../../x\n", {"x/cpu.max": "100000 50000"}, 2.0),
    ("0::/\n", {"cpu.max": "what is this"}, None),
    ("0::/\n", {"cpu.max": "100000 0"}, None),
    ("12:memory:/m\n4:cpu,cpuacct:/d\n", {"cpu,cpuacct/d/cpu.cfs_quota_us": "250000",
                                          "cpu,cpuacct/d/cpu.cfs_period_us": "100000"}, 2.5),
    ("4:cpu:/d\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1.0),
    ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ("12:memory:/m\n", {"memory/m/cpu.max": "100000 100000"}, None),
    ("4:cpuset:/d\n", {"cpuset/d/cpu.max": "100000 100000"}, None),
    ("4:cpu:/v1\n0::/v2\n", {"v2/cpu.max": "300000 100000", "cpu/v1/cpu.cfs_quota_us": "200000",
                             "cpu/v1/cpu.cfs_period_us": "100000"}, 2.0),
])
def test_the_limit_of_a_container(tmp_path, own, files, want):
    write(tmp_path, {"own": own})
    write(tmp_path / "groups", files)
    assert cgroup_limit(tmp_path / "own", tmp_path / "groups") == want


def test_no_control_groups_at_all(tmp_path):
    assert cgroup_limit(tmp_path / "none", tmp_path / "none") is None


@pytest.mark.parametrize("environment, limit, want", [
    ({}, None, 8), ({}, 2.0, 2), ({}, 1.5, 2), ({}, 0.2, 1), ({}, 64.0, 8),
    ({"OMP_NUM_THREADS": "3"}, None, 3), ({"OMP_NUM_THREADS": "3"}, 2.0, 2),
    ({"OMP_NUM_THREADS": "4,3,2"}, None, 4), ({"OMP_NUM_THREADS": "99"}, None, 8),
    ({"OMP_NUM_THREADS": "all"}, None, 8), ({"OMP_NUM_THREADS": "0"}, None, 8),
    ({"NUMBA_NUM_THREADS": "5", "OMP_NUM_THREADS": "1"}, 2.0, 5),
    ({"NUMBA_NUM_THREADS": "99"}, None, 8), ({"NUMBA_NUM_THREADS": ""}, 2.0, 2),
])
def test_the_default(monkeypatch, environment, limit, want):
    monkeypatch.setattr(module, "cores", lambda: 8)
    monkeypatch.setattr(module, "cgroup_limit", lambda: limit)
    assert default_threads(environment) == want


def test_never_more_than_cores(monkeypatch):
    from npresnet.fast import engine
    from npresnet.graph import build_graph
    from npresnet.variants import VARIANTS

    graph = build_graph(VARIANTS["resnetv2_18"])
    assert Engine(graph, {}).threads == default_threads() <= cores()
    assert Engine(graph, {}, num_threads=10_000).threads == cores()
    monkeypatch.setattr(engine, "default_threads", lambda: 1)
    assert Engine(graph, {}).threads == 1
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(module.os, "sched_getaffinity")
    monkeypatch.setattr(module.os, "cpu_count", lambda: None)
    assert cores() == 1

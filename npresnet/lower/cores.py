"""How many threads are worth starting: what the environment asks for, what this process gets."""
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from math import ceil
from pathlib import Path

OWN_CGROUPS, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def cgroup_limit(own: Path = OWN_CGROUPS, groups: Path = CGROUPS) -> float | None:
    """Seconds of computing a second that a container's limit leaves to this process; None for no
    limit.

    It is the least of the process's own control group and of those around it. Version 2 has
    `cpu.max`, version 1 `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, and scheduler/sched-bwc.rst.
    """
    return min((limit for folder in _folders(own, groups) if (limit := _limit(folder))),
               default=None)


def default_threads(environment: Mapping[str, str] = os.environ) -> int:
    """NUMBA_NUM_THREADS if it is set, else the least of OMP_NUM_THREADS, a container's limit (a
    part of a core counts as one) and the cores; never more than there are cores."""
    if chosen := _number(environment.get("NUMBA_NUM_THREADS", "")):
        return min(chosen, cores())
    limits = [cores(), ceil(cgroup_limit() or 0), _number(environment.get("OMP_NUM_THREADS", ""))]
    return min(limit for limit in limits if limit)


def _folders(own: Path, groups: Path) -> Iterator[Path]:
    """Where the limits of this process's groups may stand, from its own one outwards."""
    lines = list[str]()
    with suppress(OSError, ValueError):
        lines = own.read_text("utf-8").splitlines()
    for line in lines:                                            # number:controllers:path
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = groups / controllers
        inner = root.joinpath(*(part for part in path.split("/") if part not in ("", "..")))
        while inner != root:
            yield inner
            inner = inner.parent
        yield root                                                # in a container it is its own


def _limit(folder: Path) -> float | None:
    with suppress(OSError, ValueError, ZeroDivisionError):
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text("utf-8").split()
        else:
            quota, period = ((folder / f"cpu.cfs_{which}_us").read_text("utf-8")
                             for which in ("quota", "period"))
        if quota != "max" and float(quota) > 0:                   # −1: none, in version 1
            return float(quota) / float(period)
    return None


def _number(text: str) -> int:
    """The first of a list of numbers, as OpenMP has it; 0 if it is none."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0

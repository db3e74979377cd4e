"""What a model holds at a time: a network, its tensors, and the backend that runs them.

A model replaces all of it in one step (`load_state_dict`, `reset_classifier`), so that a call from
another thread meets the old or the new, and never parts of both.

Axes: N pictures, C channels, H×W pixels, K classes.
"""
from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from .backend import BACKENDS, Backend, describe_misfit
from .errors import BackendWarning, MissingDependencyError
from .graph import Graph, build_graph
from .lower.crew import apart
from .variants import GLOBAL_POOLS, Variant


def checked_graph(variant: Variant, *, in_chans: int, num_classes: int, output_stride: int,
                  global_pool: str) -> Graph:
    """The network as data. Raises ValueError on a number or a pool that there isn't."""
    if global_pool not in GLOBAL_POOLS:
        raise ValueError(f"unknown global_pool {global_pool!r}: choose one of "
                         f"{', '.join(map(repr, GLOBAL_POOLS))}")
    if num_classes < 0:
        raise ValueError(f"num_classes must be at least 0, not {num_classes}")
    return build_graph(variant, in_chans=in_chans, num_classes=num_classes,
                       output_stride=output_stride, global_pool=global_pool)


class Held:
    """`graph` with `params`. backends: by which to run it, the first that turns out to work;
    options: what they take of it."""

    def __init__(self, graph: Graph, params: dict[str, np.ndarray], backends: Sequence[str],
                 options: Mapping[str, Any]):
        self.graph, self.params = graph, params
        self.backends, self.options = tuple(backends), dict(options)
        self.made: tuple[str, Backend] | None = None
        self.notices = list[str]()

    @property
    def engine(self) -> Backend:
        """The backend, made when it is first needed, once, by whichever thread comes first."""
        return self._make()[1]

    @property
    def backend(self) -> str:
        """Its name. Where there is a choice it has to be made to know."""
        return self.backends[0] if len(self.backends) == 1 else self._make()[0]

    def _make(self) -> tuple[str, Backend]:
        if self.made is None:
            apart(self._make_once)
        if self.notices:
            with suppress(IndexError):                            # another thread says it
                warnings.warn(self.notices.pop(), BackendWarning, stacklevel=4)
        assert self.made
        return self.made

    def _make_once(self) -> None:
        """One at a time is in here: see `apart`."""
        if self.made is not None:
            return
        for name, following in zip(self.backends, (*self.backends[1:], "")):
            entry = BACKENDS[name]
            own = {option: self.options[option] for option in entry.options}
            try:
                made = entry.make(self.graph, self.params, exact=self.options["exact"], **own)
            except MissingDependencyError as error:
                if not following:
                    raise
                self.notices.append(f"{error}; going on with backend {following!r}")
            else:
                self.made = name, made
                return

    def check(self, what: str, x: Any, channels: int) -> Any:
        """x, given as `what`, (N, `channels`, H, W) float32, as the backend takes it.

        Raises ValueError on another rank, dtype or channel count.
        """
        x = self.engine.accept(what, x)
        if misfit := describe_misfit(what, x, channels):
            raise ValueError(misfit)
        return x

    def flat(self, y: Any) -> Any:
        """(N, K, 1, 1) → (N, K); without a global pool (N, K, P, Q) stays."""
        return y.reshape(*y.shape[:2]) if self.graph.global_pool else y

"""CUDA cases: plans that are kept, that have to go, and that are made again."""
from __future__ import annotations

from unittest.mock import patch

from cuda_networks import check, models
from helpers import random_pictures

from cuda_kernels.runner import Runner

# (pictures, height, width): the largest first, so that the workspace never grows.
A, B, C, D = (2, 2, 3), (1, 1, 2), (1, 2, 1), (2, 1, 1)


def planned(runner: Runner) -> list[tuple[int, int, int]]:
    """(pictures, height, width) of the plans that are kept, the latest last."""
    return [(n, *size[1:]) for n, (size, _, _) in runner.plans]


def kept_plans():
    """As many as KEPT_PLANS says, the latest; the others are made anew when they are needed."""
    ours, reference = models("resnetv2_18")
    assert ours._engine.plans.limit == 16
    ours._set_params(ours._params)                                # a new runner, which keeps two
    with patch("cuda_kernels.runner.KEPT_PLANS", 2):
        runner = ours._engine
    made: list[tuple[int, int, int]] = []
    bind = runner._bind

    def watched(plan):
        made.append((plan.n, *plan.shape[2:]))
        return bind(plan)

    def head(asked: tuple[int, int, int], kept: list[tuple[int, int, int]], times: int) -> None:
        """Run the head on maps of that shape; what is kept then, and how many plans were made."""
        n, h, w = asked
        features = random_pictures(n, 64, h, w, seed=len(made))
        got, want = ours.forward_head(features), reference.forward_head(features)
        check(f"{n} maps of {h}×{w}", got, want)
        assert (planned(runner), len(made)) == (kept, times), (planned(runner), made)

    with patch.object(runner, "_bind", watched):
        head(A, [A], 1)
        head(B, [A, B], 2)
        head(A, [B, A], 2)                                        # as it was made
        head(C, [A, C], 3)                                        # B goes, though A is older
        head(B, [C, B], 4)                                        # made anew, A goes
        head(D, [B, D], 5)
        head(D, [B, D], 5)
        head(A, [D, A], 6)
        # A plan that needs more room makes all others void: their places are gone.
        before, x = runner.workspace.size, random_pictures(1, 3, 9, 12)
        (got,), (want,) = (model.forward_intermediates(x, [0], intermediates_only=True)
                           for model in (ours, reference))
        check("the first map, in a larger workspace", got, want)
        assert runner.workspace.size > before
        assert (planned(runner), len(made)) == ([(1, 9, 12)], 7)
        head(A, [(1, 9, 12), A], 8)
        head(D, [A, D], 9)

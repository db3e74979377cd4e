"""How often a model is right on pictures whose classes are known, and how well it knows it."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np

from ..labels import Label
from ..table import Row, Table, Tabular

BINS = 15                                                         # of confidence, for calibration
# timm's figures on ImageNet's 50,000 validation pictures, per cent: (name, edge) → top-1, top-5.
# Source: the model card.
PUBLISHED = {("resnetv2_50.a1h_in1k", 224): (80.410, 95.082),
             ("resnetv2_50.a1h_in1k", 288): (81.406, 95.712)}


@dataclass
class Accuracy(Tabular):
    """Counts, picture by picture; shown as a table of the totals and the worst classes.

    name: the model, tag included. edge: of its pictures. labels: of its classes, K of them.
    """
    name: str
    edge: int
    labels: Sequence[Label]
    worst: int = 5                                                # classes that the table lists
    pictures: Counter[int] = field(default_factory=Counter)       # of a class
    first: Counter[int] = field(default_factory=Counter)          # of those, named rightly
    five: Counter[int] = field(default_factory=Counter)           # among the first five
    taken_for: Counter[tuple[int, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._bins = np.zeros((BINS, 3))                          # pictures, confidence, right

    def add(self, label: int, probabilities: np.ndarray) -> None:
        """A picture of class `label`, and what the model says: probabilities (K,)."""
        best = int(probabilities.argmax())
        confidence = float(probabilities[best])
        # Equal ones count as better only if they come first, as in `topk`.
        own = probabilities[label]
        rank = int((probabilities > own).sum() + (probabilities[:label] == own).sum())
        self.pictures[label] += 1
        self.first[label] += rank == 0
        self.five[label] += rank < 5
        if rank:
            self.taken_for[label, best] += 1
        self._bins[min(int(confidence * BINS), BINS - 1)] += 1, confidence, rank == 0

    @property
    def top1(self) -> float:
        """Share of pictures whose likeliest class is right."""
        return self._share(self.first)

    @property
    def top5(self) -> float:
        """Share of pictures whose class is among the five likeliest."""
        return self._share(self.five)

    @property
    def confidence(self) -> float:
        """Mean probability of the likeliest class. A calibrated model's is its top-1."""
        return float(self._bins[:, 1].sum() / max(self.pictures.total(), 1))

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: |confidence − accuracy|, averaged over the pictures in 15
        equal bins of confidence.

        Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599,
        section 2.
        """
        gaps = np.abs(self._bins[:, 1] - self._bins[:, 2]).sum()
        return float(gaps / max(self.pictures.total(), 1))

    @property
    def error(self) -> float:
        """Half the width of top-1's 95 % interval for so many pictures."""
        return 1.96 * sqrt(self.top1 * (1 - self.top1) / max(self.pictures.total(), 1))

    @property
    def published(self) -> tuple[float, float] | None:
        """timm's top-1 and top-5 for these weights and this size, shares of 1; None if unknown."""
        known = PUBLISHED.get((self.name, self.edge))
        return None if known is None else (known[0] / 100, known[1] / 100)

    def classes(self) -> list[dict[str, Any]]:
        """A row a class that has pictures, the worst first."""
        rows = []
        for i, count in self.pictures.items():
            wrong = {other: n for (own, other), n in self.taken_for.items() if own == i}
            most = max(wrong, key=lambda other: (wrong[other], -other), default=None)
            rows.append(dict(index=i, wnid=self.labels[i].wnid, label=self.labels[i].name,
                             pictures=count, top1=self.first[i] / count, top5=self.five[i] / count,
                             taken_for=None if most is None else self.labels[most].name,
                             times=0 if most is None else wrong[most]))
        return sorted(rows, key=lambda row: (row["top1"], row["index"]))

    def as_dict(self) -> dict[str, Any]:
        """All of it in plain types, for JSON. Shares are of 1."""
        known = self.published
        return dict(model=self.name, edge=self.edge, pictures=self.pictures.total(),
                    top1=self.top1, top5=self.top5, top1_error=self.error,
                    confidence=self.confidence, calibration_error=self.calibration_error,
                    published=None if known is None else dict(top1=known[0], top5=known[1]),
                    classes=self.classes())

    def table(self) -> Table:
        """The totals above, the worst classes in rows."""
        rows: list[Row] = [("worst classes", "most often taken for", "pictures", "top-1", "top-5")]
        for row in self.classes()[:self.worst]:
            other = f"{row['taken_for']} ({row['times']})" if row["times"] else ""
            rows.append((row["label"], other, f"{row['pictures']:,}", f"{row['top1']:.1%}",
                         f"{row['top5']:.1%}"))
        above = [f"{self.name}, {self.edge}×{self.edge}: {self.pictures.total():,} pictures of "
                 f"{len(self.pictures):,} classes",
                 f"  top-1 {self.top1:.2%} ± {self.error:.2%}, top-5 {self.top5:.2%}"]
        if self.published:
            above.append(f"  published: top-1 {self.published[0]:.2%}, top-5 "
                         f"{self.published[1]:.2%}, on ImageNet's 50,000 validation pictures")
        above.append(f"  confidence {self.confidence:.2%} on average, calibration error "
                     f"{self.calibration_error:.2%}")
        return Table(rows, right=2, above=above)

    def _share(self, right: Counter[int]) -> float:
        return right.total() / max(self.pictures.total(), 1)

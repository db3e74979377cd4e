"""Draw the demo's training curve and print its table: python tests/training/report.py"""
from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent


def main():
    record = json.loads((HERE / "training.json").read_text())
    curve = record["curve"]
    scored = [row for row in curve if "val_top1" in row]
    figure, left = plt.subplots(figsize=(7, 3.4), dpi=110)
    left.plot([row["epoch"] + 1 for row in curve], [row["loss"] for row in curve], color="#0072B2")
    left.set(xlabel="epoch", ylabel="training loss", xlim=(0, len(curve) + 1))
    left.yaxis.label.set_color("#0072B2")
    right = left.twinx()
    epochs, top1 = [row["epoch"] + 1 for row in scored], [100 * row["val_top1"] for row in scored]
    right.plot(epochs, top1, "o-", ms=3, color="#D55E00")
    right.set_ylabel("top-1 on pictures never trained on, %")
    right.yaxis.label.set_color("#D55E00")
    small_px, px = record["recipe"]["small_px"], record["recipe"]["px"]
    larger = next(row["epoch"] for row in curve if row["px"] == px)
    left.axvline(larger + 0.5, color="0.6", lw=0.8)
    top = left.get_ylim()[1] - 0.05
    left.annotate(f"{small_px} px  ", (larger, top), ha="right", va="top", color="0.4")
    left.annotate(f"  {px} px", (larger, top), va="top", color="0.4")
    figure.tight_layout()
    figure.savefig(HERE / "curve.png")
    for row in scored:
        print(f"epoch {row['epoch'] + 1:4d}  {row['px']} px  loss {row['loss']:.3f}  "
              f"top-1 {100 * row['val_top1']:.1f} %")
    print(record["final"])


if __name__ == "__main__":
    main()

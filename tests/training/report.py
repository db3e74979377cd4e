"""Draw the demo's training curve and print its table: python tests/training/report.py"""
from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = Path(__file__).resolve().parent


def main():
    record = json.loads((HERE / "training.json").read_text())
    curve = record["curve"]
    epochs, scored = [row["epoch"] + 1 for row in curve], [row for row in curve if "val_top1" in row]
    figure, left = plt.subplots(figsize=(7, 3.4), dpi=110)
    left.plot(epochs, [row["loss"] for row in curve], color="#0072B2")
    left.set(xlabel="epoch", ylabel="training loss", xlim=(0, len(curve) + 1))
    left.yaxis.label.set_color("#0072B2")
    right = left.twinx()
    right.plot([row["epoch"] + 1 for row in scored], [100 * row["val_top1"] for row in scored], "o-", ms=3, color="#D55E00")
    right.set_ylabel("top-1 on pictures never trained on, %")
    right.yaxis.label.set_color("#D55E00")
    larger = next(row["epoch"] for row in curve if row["px"] == record["recipe"]["px"])
    left.axvline(larger + 0.5, color="0.6", lw=0.8)
    left.annotate(f"{record['recipe']['small_px']} px  ", (larger, left.get_ylim()[1] - 0.05), ha="right", va="top", color="0.4")
    left.annotate(f"  {record['recipe']['px']} px", (larger, left.get_ylim()[1] - 0.05), va="top", color="0.4")
    figure.tight_layout()
    figure.savefig(HERE / "curve.png")
    for row in scored:
        print(f"epoch {row['epoch'] + 1:4d}  {row['px']} px  loss {row['loss']:.3f}  top-1 {100 * row['val_top1']:.1f} %")
    print(record["final"])


if __name__ == "__main__":
    main()

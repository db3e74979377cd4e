"""Score the shipped demo through the package, file to label, and write that into training.json.

    python tests/training/score.py ../shared/data/imagenette160
"""
from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
import npresnet
from npresnet.data import create_transform, load_image, resolve_model_data_config


def main():
    record = json.loads((HERE / "training.json").read_text())
    model = npresnet.create_model("demo")
    transform = create_transform(**resolve_model_data_config(model))
    table = np.zeros((10, 10), int)                               # right class × named class
    for label, wnid in enumerate(record["wnids"]):
        files = sorted((Path(sys.argv[1]) / "val" / wnid).iterdir())
        for i in range(0, len(files), 16):
            x = np.stack([transform(load_image(file)) for file in files[i:i + 16]])
            np.add.at(table[label], model(x).argmax(1), 1)
    top1 = table.trace() / table.sum()
    record["final"] = dict(val_top1=round(float(top1), 4), pictures=int(table.sum()),
                           weights="float16, moving average", px=record["recipe"]["eval_px"],
                           confusion=table.tolist())
    (HERE / "training.json").write_text(json.dumps(record, indent=1))
    print(f"top-1 {100 * top1:.2f} % of {table.sum()}")
    for label, row in zip(npresnet.model_labels(model), table):
        print(f"{label.name.split(',')[0]:18} {100 * row[label.index] / row.sum():5.1f} %   {row}")


if __name__ == "__main__":
    main()

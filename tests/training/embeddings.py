"""What the demo makes of Imagenette, for chapters 8 and 11: write tutorials/embeddings.npz.

    python tests/training/embeddings.py ../shared/data/imagenette160

Of each class the first 50 pictures that the demo was trained on, and the first 100 of the part that
it never saw, by file name. Embeddings in float16: the answers stay the same (it says so).
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


def embed(model: npresnet.ResNetV2, folder: Path, each: int) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings (N, 512) and labels (N,) of the first pictures of each class."""
    transform = create_transform(**resolve_model_data_config(model))
    wnids = json.loads((HERE / "training.json").read_text())["wnids"]
    rows, labels = [], []
    for label, wnid in enumerate(wnids):
        for file in sorted((folder / wnid).iterdir())[:each]:
            features = model.forward_features(transform(load_image(file))[None])    # (1, 512, 5, 5)
            rows.append(model.forward_head(features, pre_logits=True)[0])           # (512,)
            labels.append(label)
    return np.stack(rows), np.array(labels, np.uint8)


def main():
    model = npresnet.create_model("demo")
    weights = model.state_dict()
    head, bias = weights["head.fc.weight"][:, :, 0, 0], weights["head.fc.bias"]
    kept = {}
    for name, part, each in (("trained", "train", 50), ("held_out", "val", 100)):
        rows, labels = embed(model, Path(sys.argv[1]) / part, each)
        kept |= {name: rows.astype(np.float16), f"{name}_labels": labels}
        exact, rounded = (x @ head.T + bias for x in (rows, kept[name].astype(np.float32)))
        right = 100 * (exact.argmax(1) == labels).mean()
        print(f"{name:9} {len(labels):5} pictures, {right:.1f} % "
              f"right; float16 moves a logit by at most {np.abs(exact - rounded).max():.1e}, "
              f"answers changed: {(exact.argmax(1) != rounded.argmax(1)).sum()}")
    path = HERE.parents[1] / "tutorials" / "embeddings.npz"
    np.savez_compressed(path, **kept)
    print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

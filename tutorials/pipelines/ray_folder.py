"""A folder of pictures, classified by the workers of a Ray cluster.

    pip install "npresnet[ray]"
    python ray_folder.py PHOTOS answers --workers 2

Every node sees `PHOTOS` (a shared disk), and `answers`, which gets Parquet files, a row a picture.
Without a cluster (RAY_ADDRESS) Ray starts one on this machine. When a worker dies, Ray starts
another and hands out again what was not finished: that is its default for actors in `map_batches`.
"""
from __future__ import annotations

import argparse
from pathlib import Path

import ray

from npresnet import Predictor


def classify(paths: list[str], workers: int, threads: int, **options) -> ray.data.Dataset:
    """Rows with "image", "index", "wnid", "label", "probability" and "error"."""
    blocks = min(len(paths), 50 * workers)                        # of which each worker gets some
    pictures = ray.data.from_items([{"image": path} for path in paths], override_num_blocks=blocks)
    return pictures.map_batches(
        Predictor,                                                # each worker makes one, once
        fn_constructor_kwargs=dict(num_threads=threads, workers=threads) | options,
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=32,
        num_cpus=threads / 2)                                     # slots: see README


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--workers", type=int, default=2, help="processes in the whole cluster")
    parser.add_argument("--threads", type=int, default=1, help="cores for each of them")
    args = parser.parse_args()

    paths = sorted(str(path) for path in args.photos.resolve().iterdir() if path.is_file())
    answers = classify(paths, args.workers, args.threads, model=args.model)
    answers.write_parquet(str(args.answers.resolve()))


if __name__ == "__main__":
    main()

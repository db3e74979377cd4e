"""A folder of pictures, classified partition by partition with Dask.

    pip install "npresnet[dask]"
    python dask_folder.py PHOTOS answers

A data frame with paths goes in, the same data frame with the answers comes out, as a folder of
Parquet files. Dask's threads share one model, which uses all cores by itself. Processes, and the
workers of a cluster (`dask.distributed.Client`), load it for each partition: see README.
"""
from __future__ import annotations

import argparse
from pathlib import Path

import dask.dataframe as dd
import pandas as pd
import pyarrow as pa

from npresnet import Predictor

TEXT = pa.string()
SCHEMA = pa.schema(dict(image=TEXT, index=pa.list_(pa.int64()), wnid=pa.list_(TEXT),
                        label=pa.list_(TEXT), probability=pa.list_(pa.float32()), error=TEXT))


def classify(paths: list[str], partitions: int, **options) -> dd.DataFrame:
    """Rows with "image", "index", "wnid", "label", "probability" and "error"."""
    predictor = Predictor(**options)
    pictures = dd.from_pandas(pd.DataFrame({"image": paths}), npartitions=partitions)
    return pictures.map_partitions(predictor, meta=predictor(pictures.head(0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--scheduler", default="threads", choices=["threads", "processes"])
    args = parser.parse_args()

    paths = sorted(str(path) for path in args.photos.iterdir() if path.is_file())
    answers = classify(paths, args.partitions, model=args.model)
    answers.to_parquet(args.answers, schema=SCHEMA, write_index=False,
                       compute_kwargs=dict(scheduler=args.scheduler))


if __name__ == "__main__":
    main()

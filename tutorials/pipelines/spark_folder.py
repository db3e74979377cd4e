"""A folder of pictures, classified by Spark's executors.

    pip install "npresnet[spark]"                                 # and Java 17 or newer
    python spark_folder.py PHOTOS answers

Spark reads the files wherever they are (a disk, HDFS, S3) and hands their bytes to the executors'
Python processes, batch by batch; each of these loads the model once. `answers` gets Parquet files.
"""
from __future__ import annotations

import argparse
import os
import sys
from functools import partial

import numpy as np
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import FloatType, StringType, StructField, StructType

from npresnet import Predictor

ANSWER = StructType([StructField("label", StringType()), StructField("probability", FloatType()),
                     StructField("error", StringType())])


def load(**options):
    """What answers a batch of files' contents. It is called in each of the executors' processes."""
    predictor = Predictor(top=1, **options)

    def predict(contents: np.ndarray) -> dict[str, np.ndarray]:
        found = predictor({"image": contents})
        return {"label": np.array([label for label, in found["label"]], object),
                "probability": found["probability"][:, 0],
                "error": found["error"]}
    return predict


def classify(spark: SparkSession, folder: str, **options) -> DataFrame:
    """Rows with "path", "label", "probability" (of the likeliest class) and "error"."""
    answer = predict_batch_udf(partial(load, **options), return_type=ANSWER, batch_size=32)
    pictures = spark.read.format("binaryFile").load(folder)
    return pictures.select("path", answer("content").alias("answer")).select("path", "answer.*")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("answers")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--threads", type=int, default=1, help="as spark.task.cpus")
    args = parser.parse_args()

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)       # on a cluster: where npresnet is
    spark = SparkSession.builder.appName("npresnet").getOrCreate()
    answers = classify(spark, args.photos, model=args.model, num_threads=args.threads,
                       workers=args.threads)
    answers.write.parquet(args.answers)


if __name__ == "__main__":
    main()

"""The examples in tutorials/pipelines run, and answer what the Predictor answers by itself."""
from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from npresnet import Predictor

EXAMPLES = Path(__file__).resolve().parents[1] / "tutorials" / "pipelines"


def photographs(folder: Path, count: int, size: tuple[int, int]) -> list[str]:
    """Paths of pictures that differ, of several shapes; the last is none."""
    folder.mkdir()
    rng, paths = np.random.default_rng(0), []
    for i in range(count):
        pixels = Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8))
        paths.append(str(folder / f"{i:03}.jpg"))
        pixels.resize((size[0] + i % 7, size[1]), Image.Resampling.BICUBIC).save(paths[-1])
    Path(paths[-1]).write_bytes(b"no picture")
    return paths


def check(paths: list[str], rows: list[tuple[str, str, float, str]]) -> None:
    """There is one row a picture, with the path, label, probability and error that the Predictor
    gives when it is called by itself."""
    assert sorted(path for path, *_ in rows) == sorted(paths)
    found, worst = {path: row for path, *row in rows}, 0.0
    for answer in Predictor("demo").stream(paths):
        label, probability, error = found[answer.source]
        assert error == (answer.error or "")
        if answer.error is None:
            assert label == answer.value[0].label
            worst = max(worst, abs(probability - answer.value[0].probability))
        else:
            assert label == "" and (probability is None or np.isnan(probability))    # in Parquet
    print(f"{len(paths)} pictures, probabilities differ by {worst:.1e} at most")
    assert worst < 1e-5


def start(example: str, folder: Path, *options: str) -> subprocess.Popen:
    """An example that reads folder/photos and writes folder/answers; what it says: folder/said."""
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "SPARK_LOCAL_IP": "127.0.0.1",
                "PYSPARK_SUBMIT_ARGS": "--master local[2] pyspark-shell"}
    command = [sys.executable, EXAMPLES / example, folder / "photos", folder / "answers", *options]
    with (folder / "said").open("w") as said:
        return subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | settings)


def finish(process: subprocess.Popen, folder: Path) -> None:
    try:
        process.wait(300)
    finally:
        process.kill()
    assert process.returncode == 0, (folder / "said").read_text("utf-8", "replace")


# --- Ray ------------------------------------------------------------------------------------------


BUSY = r"\.submit$|::MapBatches"                                  # of Ray 2.60, and of 2.40


def ray_workers(driver: int) -> dict[int, str]:
    """Process number → title of the actors that the raylet of `driver` started."""
    parents, titles = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            title = (entry / "cmdline").read_text(errors="replace").rstrip("\0 ")
        except OSError:                                           # it has ended
            continue
        parents[int(entry.name)], titles[int(entry.name)] = int(status[1]), title
    return {pid: title for pid, title in titles.items() if parents.get(parents[pid]) == driver
            and re.match(r"ray::.*Map(Worker|Batches)", title)}


def answers_in(folder: Path) -> list[dict]:
    import pyarrow.parquet
    return [row for file in folder.glob("*.parquet")
            for row in pyarrow.parquet.read_table(file).to_pylist()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the worker in /proc")
def test_ray_answers_every_picture_once_though_a_worker_is_killed(tmp_path):
    pytest.importorskip("ray.data", reason="needs the extra ray")
    paths = photographs(tmp_path / "photos", 240, (900, 700))
    process = start("ray_folder.py", tmp_path, "--workers", "2")
    seen: dict[int, str] = {}
    killed = None
    while process.poll() is None:
        workers = ray_workers(process.pid)
        seen |= workers
        busy = [pid for pid, title in workers.items() if re.search(BUSY, title)]
        if killed is None and busy and (done := list((tmp_path / "answers").glob("*.parquet"))):
            killed = busy[0]
            os.kill(killed, signal.SIGKILL)
            print(f"killed {workers[killed]!r}, {killed} of {list(workers)}, when {done} were done")
        time.sleep(0.02)
    finish(process, tmp_path)
    assert killed, f"no worker was busy while answers came: {seen}"
    print("workers:", seen)
    assert len(seen) == 3, "two workers, and one in the place of the killed one"
    rows = answers_in(tmp_path / "answers")
    check(paths, [(row["image"], row["label"][0], row["probability"][0], row["error"])
                  for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize("column", ["image", "bytes"])
def test_ray_reads_the_pictures_itself(tmp_path, ray_cluster, column):
    """As arrays of several shapes, and as files' bytes."""
    data = ray_cluster.data
    paths = photographs(tmp_path / "photos", 40, (90, 70))[:-1]
    pictures = (data.read_images(paths, include_paths=True) if column == "image" else
                data.read_binary_files(paths, include_paths=True))
    answers = pictures.map_batches(
        Predictor, fn_constructor_kwargs=dict(column=column, num_threads=1), batch_size=16,
        compute=data.ActorPoolStrategy(size=2), num_cpus=0.5)
    check(paths, [(row["path"], row["label"][0], row["probability"][0], row["error"])
                  for row in answers.take_all()])


@pytest.fixture(scope="module")
def ray_cluster():
    """On this machine, of two slots."""
    pytest.importorskip("ray.data", reason="needs the extra ray")
    import ray
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


# --- Dask -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_dask(tmp_path, scheduler):
    pytest.importorskip("dask.dataframe", reason="needs the extra dask")
    paths = photographs(tmp_path / "photos", 30, (200, 180))
    finish(start("dask_folder.py", tmp_path, "--scheduler", scheduler), tmp_path)
    check(paths, [(row["image"], row["label"][0], row["probability"][0], row["error"])
                  for row in answers_in(tmp_path / "answers")])


# --- Spark ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_spark(tmp_path):
    pytest.importorskip("pyspark", reason="needs the extra spark")
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("Spark needs Java")
    paths = photographs(tmp_path / "photos", 30, (200, 180))
    finish(start("spark_folder.py", tmp_path), tmp_path)
    check(paths, [(row["path"].removeprefix("file:"), row["label"], row["probability"],
                   row["error"].replace("picture:", f"{row['path'][5:]}:"))
                  for row in answers_in(tmp_path / "answers")])

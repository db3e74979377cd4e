"""`load_image` and the Pillow that is installed: warnings, drafts, endings, libtiff's own mind."""
from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import environment
from helpers import awkward_picture
from picture_files import saved
from PIL import Image, features

from npresnet import ImageError, images, load_image
from npresnet.data import create_transform

PHOTO = Path(__file__).resolve().parents[1] / "tutorials" / "photo.jpg"
LARGE = Image.open(PHOTO).resize((1200, 800)).convert("RGB")
JPEG = saved(LARGE, "JPEG", quality=95)

# --- warnings -------------------------------------------------------------------------------------

WARNS = saved(LARGE.resize((30, 20)), "JPEG",                     # EXIF that ends in the middle
              exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\3\0\0\0\1\0\6")


def test_pillow_itself_warns():
    with pytest.warns(UserWarning), Image.open(io.BytesIO(WARNS)) as image:
        image.getexif()


@pytest.mark.parametrize("action", ["always", "error"])
def test_pillows_warnings_do_not_appear_in_any_thread(action, monkeypatch):
    """Others' do: another thread warns while one reads a picture."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)           # 30×20 is more, but not twice it
    reading, done = threading.Event(), threading.Event()
    load = Image.Image.load

    def slow_load(self):
        reading.set()
        assert done.wait(20)
        return load(self)

    def read(file):
        try:
            load_image(file)
        except ImageError as error:
            said.append(str(error))

    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        threads = [threading.Thread(target=read, args=[WARNS]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        monkeypatch.undo()
        monkeypatch.setattr(Image.Image, "load", slow_load)
        thread = threading.Thread(target=read, args=[WARNS])
        thread.start()
        assert reading.wait(20)
        if action == "error":
            with pytest.raises(UserWarning):
                warnings.warn("of another", stacklevel=1)
        else:
            warnings.warn("of another", stacklevel=1)
        done.set()
        thread.join()
    assert len(said) == 4 and all("30×20 pixels are more than" in message for message in said)
    assert [str(each.message) for each in caught] == (["of another"] if action == "always" else [])


def test_the_filter_is_put_in_once_and_can_be_copied():
    """scikit-learn and joblib do so for their workers."""
    with warnings.catch_warnings():
        load_image(WARNS)
        count = len(warnings.filters)
        load_image(WARNS)
        assert len(warnings.filters) == count
        filters = warnings.filters
        for again in (pickle.loads(pickle.dumps(filters)), copy.deepcopy(filters)):
            assert again[0][3] is filters[0][3] is images._READING
        warnings.filterwarnings("ignore", module=filters[0][3].pattern)      # scikit-learn does so
        with pytest.warns(UserWarning, match="any"):              # and it silences nothing
            warnings.warn("any", stacklevel=1)
        with pytest.raises(ImageError):
            load_image(b"no picture")
        with pytest.warns(UserWarning, match="afterwards"):
            warnings.warn("afterwards", stacklevel=1)


# --- drafts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("draft, size", [
    (None, (1200, 800)), (400, (600, 400)), (401, (1200, 800)), (200, (300, 200)),
    ((300, 100), (300, 200)), ((301, 100), (600, 400)), ((100, 101), (300, 200)), (1, (150, 100)),
    (5000, (1200, 800)), ((600, 400), (600, 400))])
def test_a_draft_is_never_smaller_than_what_is_enough(draft, size):
    assert load_image(JPEG, draft=draft).size == size
    small = np.asarray(LARGE.resize(size, Image.Resampling.BOX), np.int64)
    difference = np.abs(np.asarray(load_image(JPEG, draft=draft)) - small).mean()
    print(f"draft={draft}: {size}, {difference:.2f} of 255 off on average")
    assert difference < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_draft_is_for_the_picture_as_it_is_seen(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(LARGE, "JPEG", exif=exif)
    width, height = (600, 400) if orientation < 5 else (400, 600)
    assert load_image(data, draft=(width, height)).size == (width, height)
    assert load_image(data, draft=(width, height + 1)).size == (2 * width, 2 * height)
    assert load_image(data, draft=(width + 1, height)).size == (2 * width, 2 * height)


def test_where_a_draft_does_nothing():
    photo = load_image(JPEG)
    for source in (saved(photo, "PNG"), photo, np.asarray(photo)):
        np.testing.assert_array_equal(load_image(source, draft=10), photo)
    opened = Image.open(io.BytesIO(JPEG))
    assert load_image(opened, draft=10).size == opened.size == (1200, 800)
    assert load_image(WARNS, draft=(15, 10)).size == (15, 10)     # damaged EXIF doesn't matter


@pytest.mark.parametrize("draft", [0, -1, (0, 5), (5, 5, 5), (5.0, 5), (), "ab"])
def test_bad_drafts(draft):
    with pytest.raises(ValueError, match="draft is the size that is enough"):
        load_image(JPEG, draft=draft)


def test_the_draft_that_a_transform_asks_for():
    transform = create_transform((3, 96, 64), crop_pct=0.9, interpolation="bicubic")
    assert transform.draft_size == (142, 212)                     # 2 · ⌊64 / 0.9⌋, 2 · ⌊96 / 0.9⌋
    transform = create_transform((3, 80, 80), crop_pct=1.0, interpolation="bicubic")
    draft = load_image(JPEG, draft=transform.draft_size)
    assert draft.size == (300, 200)
    pixels = [np.asarray(transform.crop(each), np.int64) for each in (load_image(JPEG), draft)]
    difference = np.abs(pixels[0] - pixels[1])
    print(f"{difference.mean():.2f} of 255 off on average, at most {difference.max()}")
    assert difference.mean() < 1


# --- endings --------------------------------------------------------------------------------------


def test_endings():
    endings = images.picture_endings()
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".ppm",
            ".pgm", ".ico", ".tga", ".qoi", ".psd"} <= endings
    assert not {".pdf", ".mpg", ".h5", ".grib", ".bufr", ".eps", ".ps", ".wmf", ".emf", ".txt",
                ".palm"} & endings
    assert all(ending.startswith(".") and ending == ending.lower() for ending in endings)
    for ending, library in ((".webp", "webp"), (".jp2", "jpg_2000"), (".avif", "avif")):
        known = library != "avif" or "AVIF" in Image.OPEN
        assert (ending in endings) == (known and features.check(library)), ending


def test_endings_of_a_plug_in(monkeypatch):
    for table in ("ID", "OPEN", "EXTENSION"):
        monkeypatch.setattr(Image, table, copy.copy(getattr(Image, table)))
    Image.register_open("MINE", Image.Image)
    Image.register_extensions("MINE", [".mine"])
    Image.register_extensions("WRITTEN", [".written"])            # by a plug-in that can't read it
    assert {".mine", ".written"} & images.picture_endings() == {".mine"}


# --- libtiff --------------------------------------------------------------------------------------

READ_IT = """
import sys
from npresnet import ImageError, images, load_image
if sys.argv[2] == "silent":
    images.silence_libtiff()
try:
    load_image(sys.argv[1])
except ImageError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not features.check("libtiff"), reason="this Pillow is built without libtiff")
def test_libtiff_can_be_silenced(tmp_path):
    data = bytearray(saved(Image.fromarray(awkward_picture(60, 60)), "TIFF",
                           compression="tiff_lzw"))
    for i in range(20, 200, 7):
        data[i] ^= 0x5a
    (tmp_path / "a.tif").write_bytes(data)
    for how in ("loud", "silent"):
        done = subprocess.run([sys.executable, "-c", READ_IT, tmp_path / "a.tif", how],
                              env=environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "a.tif: is truncated or damaged" in done.stdout
        print(how, repr(done.stderr))
    if sys.platform == "linux":                                   # elsewhere it may be out of reach
        assert done.stderr == ""


def test_where_libtiff_is_out_of_reach(monkeypatch, tmp_path):
    not_a_library = tmp_path / "core.so"
    not_a_library.touch()
    for file in (None, not_a_library, tmp_path / "missing", sys.executable):
        monkeypatch.setattr(images._imaging, "__file__", str(file) if file else None)
        images.silence_libtiff()

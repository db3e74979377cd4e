"""Published weights: timm's files on the Hugging Face Hub.

They come through `huggingface_hub` and its standard cache. A file in the cache is used without
touching the network. HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN mean what they always do.
"""
from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .errors import DownloadError, MissingDependencyError, WeightsError, printable
from .variants import PRETRAINED, find_variant, split_revision
from .weights import check_file

FILE = "model.safetensors"
_INSTEAD = ("give a file of your own with weights= (--weights), "
            "or use the model 'demo', which needs no download")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class Fetched(NamedTuple):
    """A published file in the hub's cache. cached: it was there already, nothing was asked for."""
    path: Path
    cached: bool


def download(name: str) -> Fetched:
    """The published weights of a model by its name, such as `create_model` takes with
    pretrained=True: "resnetv2_50", "timm/resnetv2_50.a1h_in1k", "resnetv2_50.a1h_in1k@REVISION".

    Raises ValueError on an unknown name, and what `fetch` raises.
    """
    model, revision = split_revision(name)
    variant, tag = find_variant(model)
    return _get(variant.name, tag, revision)


def fetch(architecture: str, tag: str, revision: str | None = None) -> Path:
    """Path of the weights published as timm/<architecture>.<tag>.

    They are taken from the cache, or downloaded into it with a progress bar and held once against
    their published SHA-256. revision: a commit, tag or branch of their repository, default its
    newest when they were first fetched.
    Raises DownloadError if they were never published, or aren't cached and can't be fetched,
    WeightsError if the file in the cache is truncated or damaged, and MissingDependencyError
    without the extra `hub`; each in one line that says what to do instead.
    """
    return _get(architecture, tag, revision).path


def _get(architecture: str, tag: str, revision: str | None) -> Fetched:
    name = f"{architecture}.{tag}"
    if name not in PRETRAINED:
        raise DownloadError(f"no weights were published for {architecture}; "
                            f"published are {', '.join(PRETRAINED)}. Or {_INSTEAD}")
    try:
        from huggingface_hub import (
            constants,
            get_hf_file_metadata,
            hf_hub_download,
            hf_hub_url,
            try_to_load_from_cache,
        )
    except ImportError:
        raise MissingDependencyError(f"fetching {name} needs the extra 'hub': "
                                     f"pip install \"npresnet[hub]\". Or {_INSTEAD}") from None
    repo = f"timm/{name}"
    try:
        path = try_to_load_from_cache(repo, FILE, revision=revision)
        cached = isinstance(path, str)
        if not isinstance(path, str):
            # Asks once: without a network hf_hub_download alone would try for 23 seconds before it
            # gave up.
            found = get_hf_file_metadata(hf_hub_url(repo, FILE, revision=revision),
                                         timeout=constants.HF_HUB_ETAG_TIMEOUT)
            with _quietly():
                path = hf_hub_download(repo, FILE, revision=revision)
            _check_digest(Path(path), found.etag)
    except Exception as error:      # whatever the hub, its HTTP library or the disk raise
        first_line = str(error).strip().splitlines()[:1]
        reason = ": ".join([type(error).__name__, *first_line]).rstrip(".")
        raise DownloadError(f"can't fetch {FILE} of {repo} ({printable(reason, 200)}). "
                            f"{_advice(error, repo)}, or {_INSTEAD}") from error
    try:
        check_file(path)
    except WeightsError as error:
        raise WeightsError(f"{error}; to have it fetched again delete {Path(path).resolve()}. "
                           f"Or {_INSTEAD}") from None
    return Fetched(Path(path), cached)


class _WrongDigest(Exception):
    """What came is not what was published."""


def _check_digest(path: Path, etag: str | None) -> None:
    """Delete a file that was just downloaded, and raise, unless its SHA-256 is `etag`.

    huggingface_hub looks at its length alone. The hub gives the digest of large files as their
    ETag; a mirror may give something else, which is not looked at.
    """
    if etag is None or len(etag) != 64:
        return
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != etag:
        path.resolve().unlink()                                   # the link's file, then the link
        path.unlink(missing_ok=True)
        raise _WrongDigest(f"its SHA-256 is {digest[:12]}…, not {etag[:12]}…: deleted")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without huggingface_hub's warnings about what it tries again: a failure is one line.

    Not if somebody has asked for more or less of them.
    """
    from huggingface_hub.utils import logging

    usual = logging.get_verbosity() == logging.WARNING
    if usual:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        if usual:
            logging.set_verbosity_warning()


def _advice(error: Exception, repo: str) -> str:
    """What to do next about a download that failed."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", 0)
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, _WrongDigest) or "Consistency check" in str(error):
        return "Try again"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "Unset HF_HUB_OFFLINE"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"Choose a revision from https://huggingface.co/{repo}/commits/main"
    if isinstance(error, errors.EntryNotFoundError) and status == 404:
        return "Choose another revision, or check HF_ENDPOINT"
    if status == 429 or status >= 500:
        return "Try again later"
    if isinstance(error, errors.RepositoryNotFoundError) or status >= 400:
        return "Check HF_TOKEN and HF_ENDPOINT, if they are set"
    if number in _NO_ROOM:
        return "Make room on the disk, set HF_HOME to a folder on another one"
    if number in _NOT_WRITABLE:
        return "Set HF_HOME to a folder that you may write to"
    return "Check the network"

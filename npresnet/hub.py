"""Published weights: timm's files on the Hugging Face Hub.

They come through `huggingface_hub` and its standard cache. A file in the cache is used without
touching the network. HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN mean what they always do.
"""
from __future__ import annotations

from pathlib import Path

from .errors import DownloadError, MissingDependencyError, WeightsError, printable
from .variants import PRETRAINED
from .weights import check_file

FILE = "model.safetensors"
_INSTEAD = ("give a file of your own with weights= (--weights), "
            "or use the model 'demo', which needs no download")


def fetch(architecture: str, tag: str) -> Path:
    """Path of the weights published as timm/<architecture>.<tag>.

    They are taken from the cache, or downloaded into it with a progress bar.
    Raises DownloadError if they were never published, or aren't cached and can't be fetched,
    WeightsError if the file in the cache is truncated or damaged, and MissingDependencyError
    without the extra `hub`; each in one line that says what to do instead.
    """
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
                                     f"pip install 'npresnet[hub]'. Or {_INSTEAD}") from None
    repo = f"timm/{name}"
    try:
        path = try_to_load_from_cache(repo, FILE)
        if not isinstance(path, str):
            # Asks once: without a network hf_hub_download alone would try for 23 seconds before it
            # gave up.
            get_hf_file_metadata(hf_hub_url(repo, FILE), timeout=constants.HF_HUB_ETAG_TIMEOUT)
            path = hf_hub_download(repo, FILE)
    except Exception as error:      # whatever the hub, its HTTP library or the disk raise
        first_line = str(error).strip().splitlines()[:1]
        reason = ": ".join([type(error).__name__, *first_line]).rstrip(".")
        raise DownloadError(f"can't fetch {FILE} of {repo} ({printable(reason)}). "
                            f"Check the network, or {_INSTEAD}") from error
    try:
        check_file(path)
    except WeightsError as error:
        raise WeightsError(f"{error}; to have it fetched again delete {Path(path).resolve()}. "
                           f"Or {_INSTEAD}") from None
    return Path(path)

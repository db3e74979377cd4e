"""Published weights: timm's files on the Hugging Face Hub, through `huggingface_hub` and its standard cache.

A file in the cache is used without touching the network. HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN mean what they always do.
"""
from __future__ import annotations

from pathlib import Path

from .errors import DownloadError, MissingDependencyError
from .variants import PRETRAINED

FILE = "model.safetensors"
_INSTEAD = "give a file of your own with weights= (--weights), or use the model 'demo', which needs no download"


def fetch(architecture: str, tag: str) -> Path:
    """Path of the weights published as timm/<architecture>.<tag>, from the cache or downloaded into it with a progress bar.

    Raises DownloadError if they were never published, aren't cached and can't be fetched, and MissingDependencyError without the
    extra `hub`; each in one line that says what to do instead.
    """
    name = f"{architecture}.{tag}"
    if name not in PRETRAINED:
        raise DownloadError(f"no weights were published for {architecture}; published are {', '.join(PRETRAINED)}. Or {_INSTEAD}")
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
    except ImportError:
        raise MissingDependencyError(f"fetching {name} needs the extra 'hub': pip install 'npresnet[hub]'. Or {_INSTEAD}") from None
    repo = f"timm/{name}"
    cached = try_to_load_from_cache(repo, FILE)
    if isinstance(cached, str):
        return Path(cached)
    try:
        return Path(hf_hub_download(repo, FILE))
    except Exception as error:                                    # whatever the hub, its HTTP library or the disk raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DownloadError(f"can't fetch {FILE} of {repo} ({reason}). Check the network, or {_INSTEAD}") from error

"""What npresnet raises when something outside of it is wrong.

Each message is one line that names the file and what to do next.
"""


class NpresnetError(Exception):
    """The base of npresnet's own errors."""


class WeightsError(NpresnetError):
    """A weights file or state dict that can't be used.

    It names the file, the tensor, what was expected and what was found.
    """


class ImageError(NpresnetError):
    """A file that can't be used as a picture: names the file."""


class DownloadError(NpresnetError):
    """Published weights that could not be had: no network, no such file, or never published."""


class MissingDependencyError(NpresnetError, ImportError):
    """A dependency that isn't installed, or doesn't load here: names what is wrong, and the extra
    that brings it."""


class BackendWarning(UserWarning):
    """Another backend is used than one would expect: says which, and why."""


class DeviceError(NpresnetError):
    """A GPU that can't be used: no driver, no device, one too old, or too little memory on it."""


def printable(name: object, limit: int = 5000) -> str:
    """A name that came from outside (a file's, a tensor's) as one line that any terminal shows.

    What can't be printed is escaped. No more than `limit` characters are shown: the default is
    longer than any path.
    """
    text = str(name)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode()
                    for c in text[:limit + 1])
    return shown if len(shown) <= limit else f"{shown[:limit - 1]}…"

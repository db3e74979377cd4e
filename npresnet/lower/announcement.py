"""A line for the user where compiling takes its time."""
from __future__ import annotations

import sys
from typing import Any


class Announcement:
    """Tells the user what takes so long, when Numba begins to compile `what`.

    A listener for Numba's events, or for numba-cuda's, which has a copy of them: register it with
    the `Listener` of either.
    """

    def __init__(self, what: str):
        self.what, self.told = what, False

    def notify(self, event: Any) -> None:
        """Called when something begins or has ended; the first time it says so."""
        if event.is_start and not self.told:
            print(f"npresnet: compiling {self.what} for this machine; this takes some seconds, "
                  "once", file=sys.stderr, flush=True)
            self.told = True

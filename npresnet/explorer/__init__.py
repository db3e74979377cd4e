"""The explorer: one page on which the real network runs and answers for every number.

`page.py` puts it together: a photograph, the demo's weights, a digest of what Python computes for
them, and the JavaScript modules beside it, each with one task. In reading order:

    ops, network     the operations and the network, twins of `npresnet/ops` and `network.py`
    safetensors      reads files of weights;  preprocessing: from pixels to the network's input
    layers           the network as data, the twin of `graph.py`: sizes, costs, receptive fields
    worker, engine   run it beside the page
    photo, answer, experiments, map, layer, why, agreement, tour      the parts of the page
    text             all that it says;  dom, colours: small helpers;  app: puts all together

The modules import each other as the browser would have it, so that tools and tests can run them
one by one; the page gets them joined into one script.
"""
from __future__ import annotations

from .page import make_page

__all__ = ["make_page"]

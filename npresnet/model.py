"""The model: what a user holds. It keeps the tensors, checks what comes in, and hands the work on.

The forward pass itself stands in `network.py`; what runs it is a backend (`backend.py`), and the
layers that it is asked for are those of `graph.py`. Names and behaviour are timm's
(`timm/models/resnetv2.py`).

Axes: N pictures, C channels, H×W pixels, K classes.
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import loading
from .backend import Backend, check_threads, choose_backends
from .graph import Graph
from .held import Held, checked_graph
from .variants import COUNTER, FeatureInfo, Variant, take_indices
from .weights import write_weights


class ResNetV2:
    """A ResNetV2 with its tensors, for inference. Made by `create_model`; called like a function,
    from any number of threads.

    variant: which network. cfg: its pretrained_cfg. params: tensors that `check_weights` passed,
    default random ones from `seed`. For the rest see `create_model`.

    Attributes: pretrained_cfg (how its weights want pictures, timm's keys), feature_info,
    num_features (channels of the last feature map), head_hidden_size (width of an embedding),
    num_classes, in_chans, global_pool, backend, graph (the network as data).
    """

    def __init__(self, variant: Variant, cfg: Mapping[str, Any], *, num_classes: int,
                 features_only: bool = False, out_indices: int | Sequence[int] | None = None,
                 global_pool: str = "avg", in_chans: int = 3, output_stride: int = 32,
                 seed: int = 0, backend: str = "auto", exact: bool = False,
                 num_threads: int | None = None, params: dict[str, np.ndarray] | None = None):
        if in_chans < 1:
            raise ValueError(f"in_chans must be at least 1, not {in_chans}")
        if out_indices is not None and not features_only:
            raise ValueError("out_indices chooses feature maps: it goes with features_only=True")
        self.variant, self.in_chans, self.output_stride = variant, in_chans, output_stride
        self.features_only, self.seed, self.exact = features_only, seed, exact
        self.pretrained_cfg, self.num_threads = dict(cfg), num_threads
        self._backends = choose_backends(backend)
        check_threads(num_threads, self._backends[0])
        graph = self._build_graph(0 if features_only else num_classes, global_pool)
        if params is None:
            params = loading.initial_state(graph.parameter_shapes(), seed)
        self._hold(graph, params)
        info = [dict(num_chs=each.channels, reduction=each.reduction, module=each.path, index=i)
                for i, each in enumerate(self.graph.feature_maps)]
        self.feature_info = FeatureInfo(info, take_indices(len(info), out_indices))
        self.num_features = variant.channels[-1]

    # --- calling it -------------------------------------------------------------------------------

    def __call__(self, x: Any) -> Any:
        """`forward`."""
        return self.forward(x)

    def forward(self, x: Any) -> Any:
        """Pictures (N, C, H, W) float32 → logits (N, num_classes).

        A model made with num_classes=0 gives embeddings (N, 2048), one made with features_only=True
        a list of feature maps. x may be read-only or non-contiguous and is left as it is.
        Raises ValueError on another rank, dtype or channel count.
        """
        if self.features_only:
            return self.forward_intermediates(x, list(self.feature_info.out_indices),
                                              stop_early=True, intermediates_only=True)
        held = self._held
        x = held.check("pictures", x, self.in_chans)
        y, = held.engine.maps(x, [held.graph.last])               # (N, K, 1, 1)
        return held.flat(y)

    def forward_features(self, x: Any) -> Any:
        """Pictures (N, C, H, W) float32 → the last feature map (N, 2048, H/32, W/32), after the
        final batch norm and ReLU."""
        held = self._held
        return held.engine.maps(held.check("pictures", x, self.in_chans), ["norm"])[0]

    def forward_head(self, features: Any, pre_logits: bool = False) -> Any:
        """Last feature map (N, 2048, P, Q) float32 → logits (N, num_classes), or with `pre_logits`
        the embedding (N, 2048).

        Raises ValueError on another rank, dtype or channel count.
        """
        held = self._held
        features = held.check("features", features, self.num_features)
        path = "head.global_pool" if pre_logits else held.graph.last
        return held.flat(held.engine.head(features, path))

    def forward_intermediates(self, x: Any, indices: int | Sequence[int] | None = None,
                              norm: bool = False, stop_early: bool = False,
                              intermediates_only: bool = False) -> Any:
        """The last feature map and a list of the five raw ones, or of those that `indices` picks.

        indices: None for all, n for the last n, or a sequence of numbers (negative ones count from
        the end); maps come in the network's order. norm: batch norm and ReLU on the fifth map.
        stop_early: run no stage behind the last map asked for (the first of the returned pair is
        then that stage's raw output). intermediates_only: return the list alone.
        Raises ValueError on bad indices or pictures.
        """
        take = take_indices(len(self.feature_info), indices)
        held = self._held
        wanted, last = held.graph.taps(take, norm, stop_early)
        x = held.check("pictures", x, self.in_chans)
        if intermediates_only:
            return held.engine.maps(x, wanted)
        *maps, end = held.engine.maps(x, [*wanted, last])
        return end, maps

    def trace(self, x: Any) -> dict[str, np.ndarray]:
        """The output of every layer that the backend computes, for pictures (N, C, H, W): timm
        module path → array, in forward order.

        `normN` and `norm` include their ReLU, `stages.0.blocks.0` is the block's sum,
        `head.global_pool` and `head.fc` keep their 1×1 pixels, all as a hook on timm's modules sees
        them. The numpy and cuda backends compute every layer; the numba backend folds a batch norm
        into the convolution before it, and that convolution's own output does not exist.
        """
        held = self._held
        return held.engine.trace(held.check("pictures", x, self.in_chans), self._last(held.graph))

    def eval(self) -> ResNetV2:
        """Itself: there is no other mode. Batch norm always uses statistics kept from training."""
        return self

    # --- its tensors ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """timm's name → read-only array, in timm's order: float32, `num_batches_tracked` int64."""
        return dict(self._params)

    def load_state_dict(self, state_dict: Mapping[str, np.ndarray],
                        strict: bool = True) -> loading.IncompatibleKeys:
        """Take over tensors in timm's names, all or none. With strict=False some may be missing or
        left over.

        Raises WeightsError if a tensor is missing, unexpected, mis-shaped, not floating-point, or
        holds NaN or Inf.
        """
        held = self._held
        shapes = held.graph.parameter_shapes()
        checked = loading.check_weights(state_dict, shapes, "state dict", strict=strict)
        missing = [n for n in shapes if n not in state_dict and not n.endswith(COUNTER)]
        self._hold(held.graph, held.params | checked)
        extra = [name for name in state_dict if name not in shapes]
        return loading.IncompatibleKeys(missing, extra)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with timm's names, which timm and `create_model(weights=path)`
        load. It appears whole or not at all.

        Raises WeightsError if it can't be written.
        """
        write_weights(path, self._params)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new, randomly initialised classifier of `num_classes` (0 for none) on the trunk,
        and change the global pool. Raises ValueError on a bad number or pool, and changes nothing
        then."""
        held = self._held
        graph = self._build_graph(num_classes, held.graph.global_pool if global_pool is None
                                  else global_pool)
        trunk = {n: array for n, array in held.params.items() if not n.startswith("head.")}
        shapes = graph.parameter_shapes()
        head = {name: shape for name, shape in shapes.items() if name.startswith("head.")}
        self._hold(graph, trunk | loading.initial_state(head, self.seed))

    @property
    def head_hidden_size(self) -> int:
        """Width of what `forward_head(pre_logits=True)` gives: num_features, or twice that for
        "catavgmax"."""
        return self.num_features * (2 if self.global_pool == "catavgmax" else 1)

    # --- looking at it ----------------------------------------------------------------------------

    def plan(self, input_size: tuple[int, int, int] | None = None) -> Any:
        """What the numba backend does with a picture of `input_size` (C, H, W; default: the model's
        own), layer by layer: algorithm, tile, GFLOP, and the time it takes here and now
        (`npresnet.fast.report.PlanReport`); or what the cuda backend launches, what that should
        take, and takes (`cuda_kernels.performance.Forecast`). Raises ValueError on the numpy
        backend."""
        return self._engine.plan(input_size or self._own_size())

    def summary(self, input_size: tuple[int, int, int] | None = None) -> Any:
        """Table of the layers for pictures of `input_size` (C, H, W; default: the model's own): see
        `npresnet.summary.Summary`."""
        from .summary import summarise
        return summarise(self.graph, input_size or self._own_size(), self._last(self.graph))

    def __repr__(self) -> str:
        classes = f"{self.num_classes} classes" if self.num_classes else "embeddings"
        gives = "feature maps" if self.features_only else classes
        return (f"<npresnet.ResNetV2 {self.variant.name}, {self.graph.count_parameters():,} "
                f"parameters, {gives}, backend {self.backend}>")

    # --- inside -----------------------------------------------------------------------------------

    @property
    def graph(self) -> Graph:
        """The network as data."""
        return self._held.graph

    @property
    def num_classes(self) -> int:
        """Classes of the classifier, 0 for none."""
        return self._held.graph.num_classes

    @property
    def global_pool(self) -> str:
        """How the last feature map becomes one pixel."""
        return self._held.graph.global_pool

    @property
    def backend(self) -> str:
        """What runs it: of "auto" what was found to work, which is looked at when it is asked."""
        return self._held.backend

    def _build_graph(self, num_classes: int, global_pool: str) -> Graph:
        return checked_graph(self.variant, in_chans=self.in_chans, num_classes=num_classes,
                             output_stride=self.output_stride, global_pool=global_pool)

    def _hold(self, graph: Graph, params: dict[str, np.ndarray]) -> None:
        """Be this network with these tensors from now on, in one step."""
        self.pretrained_cfg["num_classes"] = graph.num_classes
        self._held = Held(graph, params, self._backends,
                          dict(exact=self.exact, num_threads=self.num_threads))

    def _set_params(self, params: dict[str, np.ndarray]) -> None:
        self._hold(self.graph, params)

    @property
    def _params(self) -> dict[str, np.ndarray]:
        return self._held.params

    @property
    def _engine(self) -> Backend:
        return self._held.engine

    def _last(self, graph: Graph) -> str:
        """The last layer that a call runs."""
        if not self.features_only:
            return graph.last
        return graph.taps(list(self.feature_info.out_indices), False, stop_early=True)[1]

    def _own_size(self) -> tuple[int, int, int]:
        _, h, w = self.pretrained_cfg["input_size"]
        return self.in_chans, h, w

    def __getstate__(self) -> dict[str, Any]:
        own = {name: value for name, value in self.__dict__.items() if name != "_held"}
        return own | dict(_kept=(self.num_classes, self.global_pool, self._params))

    def __setstate__(self, state: dict[str, Any]) -> None:
        num_classes, global_pool, params = state["_kept"]
        self.__dict__.update({name: value for name, value in state.items() if name != "_kept"})
        for array in params.values():
            array.flags.writeable = False
        self._hold(self._build_graph(num_classes, global_pool), params)


def create_model(name: str, *, pretrained: bool = False,
                 weights: str | os.PathLike[str] | None = None, num_classes: int | None = None,
                 features_only: bool = False, out_indices: int | Sequence[int] | None = None,
                 global_pool: str = "avg", in_chans: int = 3, output_stride: int = 32,
                 seed: int = 0, backend: str = "auto", exact: bool = False,
                 num_threads: int | None = None) -> ResNetV2:
    """A ResNetV2 by timm's name, with published weights, weights of your own, or random ones.

    name: "resnetv2_50.a1h_in1k", "resnetv2_50", … (`list_models`), or "demo", the small trained
        network inside the package.
    pretrained: fetch timm's weights from the Hugging Face Hub (extra `hub`), or take them from its
        cache; "resnetv2_50.a1h_in1k@REVISION" pins a commit or tag of theirs. weights: a
        safetensors file with timm's names instead. With neither, He initialisation from `seed`;
        "demo" is always trained.
    num_classes: 0 for embeddings; default as many as the weights have, or 1000. Another number than
        the weights' keeps the trunk and puts a new, randomly initialised classifier on it, as timm
        does (with a warning).
    features_only: the model returns a list of raw feature maps; out_indices picks some (n for the
        last n, negatives allowed).
    global_pool: "avg", "max", "avgmax", "catavgmax" or "" (none). in_chans: picture channels;
        weights for 3 are adapted as timm does.
    output_stride: 32, 16 or 8: keep more pixels in the last stages by dilating their kernels.
    backend: "numpy" is the reference, "numba" the fast engine (its first use on a machine compiles
        for some seconds, into the user's cache folder or NUMBA_CACHE_DIR), "cuda" runs on a GPU
        (extra `cuda`); "auto" takes the environment variable NPRESNET_BACKEND, else "cuda" where
        that can run, else "numba", else, with a warning, "numpy".
    exact: no Winograd convolutions, which the numba backend uses where they are faster; the others
        never do.
    num_threads: of the numba backend, default NUMBA_NUM_THREADS, else the least of OMP_NUM_THREADS,
        a container's limit and the cores; it takes no more than there are cores. NumPy's matrix
        product has its own setting, OPENBLAS_NUM_THREADS.

    Raises ValueError on an unknown name or a bad argument, WeightsError on unfit weights,
    DownloadError and MissingDependencyError if published weights can't be had, DeviceError if
    backend="cuda" finds no GPU that it can use, MissingDependencyError if backend="numba" can't
    have Numba (where it turns out when Numba is imported: with the first call).
    """
    source = loading.find_source(name, pretrained, weights)
    options: dict[str, Any] = dict(
        features_only=features_only, out_indices=out_indices, global_pool=global_pool,
        in_chans=in_chans, output_stride=output_stride, seed=seed, backend=backend, exact=exact,
        num_threads=num_threads)
    if source.file is None:
        classes = 1000 if num_classes is None else num_classes
        return ResNetV2(source.variant, source.cfg, num_classes=classes, **options)
    with loading.open_file(source.file) as file:
        in_file = loading.classes_in(file.tensors, source.cfg["num_classes"])
        classes = in_file if num_classes is None else num_classes
        model = ResNetV2(source.variant, source.cfg, num_classes=classes, params={}, **options)
        model._set_params(loading.fit_tensors(file.tensors, model.graph, str(source.file), in_file,
                                              seed))
    return model

"""The model: what a user holds. It keeps the tensors, checks what comes in, and hands the work to a backend.

The forward pass itself stands in `network.py`; a backend is a class with its four methods `forward`, `forward_features`,
`forward_intermediates` and `forward_head`. Names and behaviour are timm's (`timm/models/resnetv2.py`).

Axes: N pictures, C channels, H×W pixels.
"""
from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .errors import WeightsError
from .network import Network, no_tap
from .variants import (COUNTER, DEMO, GLOBAL_POOLS, FeatureInfo, Variant, count_parameters, find_variant, parameter_shapes,
                       pretrained_cfg, take_indices)
from .weights import adapt_input_conv, check_weights, initial_state, read_weights, write_weights

BACKENDS = ("numpy", "numba", "cuda")


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` found: tensors the model has and the state dict hasn't, and the other way round."""
    missing_keys: list[str]
    unexpected_keys: list[str]


class ResNetV2:
    """A ResNetV2 with its tensors, for inference. Made by `create_model`; called like a function, from any number of threads.

    variant: which network. cfg: its pretrained_cfg. params: tensors that `check_weights` passed, default random ones from `seed`. For the
    rest see `create_model`.

    Attributes: pretrained_cfg (how its weights want pictures, timm's keys), feature_info, num_features (channels of the last feature
    map), head_hidden_size (width of an embedding), num_classes, in_chans, global_pool, backend.
    """

    def __init__(self, variant: Variant, cfg: Mapping, *, num_classes: int, features_only: bool = False,
                 out_indices: int | Sequence[int] | None = None, global_pool: str = "avg", in_chans: int = 3, output_stride: int = 32,
                 seed: int = 0, backend: str = "auto", exact: bool = False, num_threads: int | None = None,
                 params: dict[str, np.ndarray] | None = None):
        if global_pool not in GLOBAL_POOLS:
            raise ValueError(f"unknown global_pool {global_pool!r}: choose one of {', '.join(map(repr, GLOBAL_POOLS))}")
        if num_classes < 0 or in_chans < 1:
            raise ValueError(f"num_classes must be at least 0 and in_chans at least 1, not {num_classes} and {in_chans}")
        if out_indices is not None and not features_only:
            raise ValueError("out_indices chooses feature maps: it goes with features_only=True")
        self.variant, self.in_chans, self.output_stride, self.global_pool = variant, in_chans, output_stride, global_pool
        self.features_only, self.num_classes, self.seed = features_only, 0 if features_only else num_classes, seed
        self.pretrained_cfg = dict(cfg, num_classes=self.num_classes)
        info = variant.feature_info(output_stride)
        self.feature_info = FeatureInfo(info, take_indices(len(info), out_indices))
        self.num_features = variant.channels[-1]
        self.backend, self.exact, self.num_threads = choose_backend(backend), exact, num_threads
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, not {num_threads}")
        if num_threads is not None and self.backend != "numba":
            raise ValueError(f"num_threads is for the numba backend, not for {self.backend} (NumPy takes its threads from the environment "
                             f"variable OPENBLAS_NUM_THREADS)")
        self._set_params(initial_state(self._shapes(), seed) if params is None else params)

    # --- calling it -----------------------------------------------------------------------------------------------------------

    def __call__(self, x: np.ndarray):
        """`forward`."""
        return self.forward(x)

    def forward(self, x: np.ndarray):
        """Pictures (N, C, H, W) float32 → logits (N, num_classes).

        A model made with num_classes=0 gives embeddings (N, 2048), one made with features_only=True a list of feature maps.
        x may be read-only or non-contiguous and is left as it is. Raises ValueError on another rank, dtype or channel count.
        """
        if self.features_only:
            return self.forward_intermediates(x, list(self.feature_info.out_indices), stop_early=True, intermediates_only=True)
        return self._network.forward(self._check_pictures(x))

    def forward_features(self, x: np.ndarray) -> np.ndarray:
        """Pictures (N, C, H, W) float32 → the last feature map (N, 2048, H/32, W/32), after the final batch norm and ReLU."""
        return self._network.forward_features(self._check_pictures(x))

    def forward_head(self, features: np.ndarray, pre_logits: bool = False) -> np.ndarray:
        """Last feature map (N, 2048, P, Q) float32 → logits (N, num_classes), or with `pre_logits` the embedding (N, 2048).

        Raises ValueError on another rank, dtype or channel count.
        """
        features = self._check_array("features", features, self.num_features)
        return self._network.forward_head(features, pre_logits)

    def forward_intermediates(self, x: np.ndarray, indices: int | Sequence[int] | None = None, norm: bool = False,
                              stop_early: bool = False, intermediates_only: bool = False):
        """The last feature map and a list of the five raw ones, or of those that `indices` picks.

        indices: None for all, n for the last n, or a sequence of numbers (negative ones count from the end); maps come in the
        network's order. norm: batch norm and ReLU on the fifth map. stop_early: run no stage behind the last map asked for (the
        first of the returned pair is then that stage's raw output). intermediates_only: return the list alone.
        Raises ValueError on bad indices or pictures.
        """
        take = take_indices(len(self.feature_info), indices)
        return self._network.forward_intermediates(self._check_pictures(x), take, norm, stop_early, intermediates_only)

    def trace(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Every layer's output for pictures (N, C, H, W): timm module path → array, in forward order.

        `normN` and `norm` include their ReLU, `stages.0.blocks.0` is the block's sum, `head.global_pool` and `head.fc` keep their
        1×1 pixels, all as a hook on timm's modules sees them. On the numba backend a layer that is fused into the next one does not
        exist by itself; in its place stands what the readable reference (`network.py`) gives. The cuda backend computes them all.
        """
        layers: dict[str, np.ndarray] = {}
        x, take = self._check_pictures(x), list(self.feature_info.out_indices)
        if self.backend == "cuda":
            layers = self._network.trace(x)
            if self.features_only:                                # as the reference, which stops behind the last map
                paths = list(layers)
                _, last = self.variant.taps(take, norm=False, stop_early=True)
                layers = {path: layers[path] for path in paths[:paths.index(last) + 1]}
            return layers
        network = self._reference(tap=layers.__setitem__)
        if self.features_only:
            network.forward_intermediates(x, take, stop_early=True)
        else:
            network.forward(x)
        if self.backend == "numba":
            layers |= {path: y.reshape(layers[path].shape) for path, y in self._network.trace(x).items() if path in layers}
        return layers

    def eval(self) -> ResNetV2:
        """Itself: there is no other mode. Batch norm always uses the statistics kept from training."""
        return self

    # --- its tensors ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """timm's name → read-only array, in timm's order: float32, `num_batches_tracked` int64."""
        return dict(self._params)

    def load_state_dict(self, state_dict: Mapping[str, np.ndarray], strict: bool = True) -> IncompatibleKeys:
        """Take over tensors in timm's names, all or none. With strict=False some may be missing or left over.

        Raises WeightsError if a tensor is missing, unexpected, mis-shaped, not floating-point, or holds NaN or Inf.
        """
        shapes = self._shapes()
        checked = check_weights(state_dict, shapes, "state dict", strict=strict)
        missing = [name for name in shapes if name not in state_dict and not name.endswith(COUNTER)]
        self._set_params(self._params | checked)
        return IncompatibleKeys(missing, [name for name in state_dict if name not in shapes])

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file with timm's names, which timm and `create_model(weights=path)` load. It appears whole or not at all.

        Raises WeightsError if it can't be written.
        """
        write_weights(path, self._params)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new, randomly initialised classifier of `num_classes` (0 for none) on the trunk, and change the global pool."""
        other = ResNetV2(self.variant, self.pretrained_cfg, num_classes=num_classes, in_chans=self.in_chans, seed=self.seed,
                         global_pool=self.global_pool if global_pool is None else global_pool, backend=self.backend, params={})
        self.num_classes, self.global_pool = other.num_classes, other.global_pool
        self.pretrained_cfg = other.pretrained_cfg
        trunk = {name: array for name, array in self._params.items() if not name.startswith("head.")}
        self._set_params(trunk | initial_state(other._head_shapes(), self.seed))

    @property
    def head_hidden_size(self) -> int:
        """Width of what `forward_head(pre_logits=True)` gives: num_features, or twice that for "catavgmax"."""
        return self.num_features * (2 if self.global_pool == "catavgmax" else 1)

    def plan(self, input_size: tuple[int, int, int] | None = None):
        """What the numba backend does with a picture of `input_size` (C, H, W; default: the model's own), layer by layer: algorithm, tile,
        GFLOP, and the time it takes here and now (`npresnet.fast.report.PlanReport`); or what the cuda backend launches, what that should
        take, and takes (`cuda_kernels.performance.Forecast`). Raises ValueError on the numpy backend."""
        if self.backend == "numpy":
            raise ValueError(f"the {self.backend} backend plans nothing: create the model with backend='numba' or 'cuda'")
        return self._network.plan(tuple(input_size or (self.in_chans, *self.pretrained_cfg["input_size"][1:])))

    def summary(self, input_size: tuple[int, int, int] | None = None):
        """Table of the layers for pictures of `input_size` (C, H, W; default: the model's own): see `npresnet.summary.Summary`."""
        from .summary import summarise
        return summarise(self, input_size)

    def __repr__(self) -> str:
        params = count_parameters(self.variant, num_classes=self.num_classes, in_chans=self.in_chans, global_pool=self.global_pool)
        what = "feature maps" if self.features_only else f"{self.num_classes} classes" if self.num_classes else "embeddings"
        return f"<npresnet.ResNetV2 {self.variant.name}, {params:,} parameters, {what}, backend {self.backend}>"

    # --- inside ---------------------------------------------------------------------------------------------------------------

    def _shapes(self) -> dict[str, tuple]:
        return parameter_shapes(self.variant, num_classes=self.num_classes, in_chans=self.in_chans, global_pool=self.global_pool)

    def _head_shapes(self) -> dict[str, tuple]:
        return {name: shape for name, shape in self._shapes().items() if name.startswith("head.")}

    def _set_params(self, params: dict[str, np.ndarray]) -> None:
        self._params, self._made = params, None

    @property
    def _network(self):
        """The backend, made when it is first needed: some commands only look at a model."""
        if self._made is None:
            if self.backend == "numpy":
                self._made = self._reference()
            elif self.backend == "cuda":
                from cuda_kernels.runner import Runner
                self._made = Runner(self.variant, self._params, output_stride=self.output_stride, global_pool=self.global_pool)
            else:
                from .fast.engine import Engine
                self._made = Engine(self.variant, self._params, output_stride=self.output_stride, global_pool=self.global_pool,
                                    exact=self.exact, num_threads=self.num_threads)
        return self._made

    def _reference(self, tap=no_tap) -> Network:
        return Network(self.variant, self._params, output_stride=self.output_stride, global_pool=self.global_pool, tap=tap)

    def _check_pictures(self, x):
        return self._check_array("pictures", x, self.in_chans)

    def _check_array(self, what: str, x, channels: int):
        """x as the backend takes it: a NumPy array, or one in the GPU's memory."""
        if hasattr(x, "__cuda_array_interface__") or hasattr(x, "__cuda_ndarray__"):
            if self.backend != "cuda":
                raise ValueError(f"the {what} lie in a GPU's memory: create the model with backend='cuda', or copy them to the host")
            x = self._network.on_device(x)
        else:
            x = np.asarray(x)
        if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape[1:]:
            raise ValueError(f"expected {what} of shape (N, {channels}, H, W), got {tuple(x.shape)}"
                             + ("; add the batch axis with x[None]" if x.ndim == 3 else ""))
        if x.dtype != np.float32:
            raise ValueError(f"expected {what} of dtype float32, got {x.dtype} of shape {tuple(x.shape)}; "
                             "convert with x.astype(np.float32)")
        return x

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_made"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        for array in self._params.values():
            array.flags.writeable = False
        self._set_params(self._params)


def create_model(name: str, *, pretrained: bool = False, weights: str | os.PathLike | None = None, num_classes: int | None = None,
                 features_only: bool = False, out_indices: int | Sequence[int] | None = None, global_pool: str = "avg",
                 in_chans: int = 3, output_stride: int = 32, seed: int = 0, backend: str = "auto", exact: bool = False,
                 num_threads: int | None = None) -> ResNetV2:
    """A ResNetV2 by timm's name, with published weights, weights of your own, or random ones.

    name: "resnetv2_50.a1h_in1k", "resnetv2_50", … (`list_models`), or "demo", the small trained network inside the package.
    pretrained: fetch timm's weights from the Hugging Face Hub (extra `hub`), or take them from its cache.
    weights: a safetensors file with timm's names instead. With neither, He initialisation from `seed`; "demo" is always trained.
    num_classes: 0 for embeddings; default as many as the weights have, or 1000. Another number than the weights' keeps the trunk
        and puts a new, randomly initialised classifier on it, as timm does (with a warning).
    features_only: the model returns a list of raw feature maps; out_indices picks some (n for the last n, negatives allowed).
    global_pool: "avg", "max", "avgmax", "catavgmax" or "" (none). in_chans: picture channels; weights for 3 are adapted as timm does.
    output_stride: 32, 16 or 8: keep more pixels in the last stages by dilating their kernels.
    backend: "numpy" is the reference, "numba" the fast engine (its first use on a machine compiles for some seconds), "cuda" runs on a
        GPU (extra `cuda`); "auto" takes the environment variable NPRESNET_BACKEND, else "cuda" where that can run, else "numba".
    exact: no Winograd convolutions, which the numba backend uses where they are faster; the others never do.
    num_threads: of the numba backend, default NUMBA_NUM_THREADS, else one a core; it takes no more than there are cores. NumPy's
        matrix product has its own setting, OPENBLAS_NUM_THREADS.

    Raises ValueError on an unknown name or a bad argument, WeightsError on unfit weights, DownloadError and MissingDependencyError
    if published weights can't be had, DeviceError if backend="cuda" finds no GPU that it can use.
    """
    if pretrained and weights is not None:
        raise ValueError("give either pretrained=True or weights=, not both")
    variant, tag = find_variant(name)
    cfg, file = pretrained_cfg(variant, tag), weights
    if variant is DEMO:
        from . import demo
        cfg, file = demo.config(), demo.WEIGHTS if weights is None else weights
    elif pretrained:
        from .hub import fetch
        file = fetch(variant.name, tag)
    options = dict(features_only=features_only, out_indices=out_indices, global_pool=global_pool, in_chans=in_chans,
                   output_stride=output_stride, seed=seed, backend=backend, exact=exact, num_threads=num_threads)
    if file is None:
        return ResNetV2(variant, cfg, num_classes=1000 if num_classes is None else num_classes, **options)
    tensors, source = read_weights(file), str(file)
    head = tensors.get("head.fc.weight")
    in_file = head.shape[0] if head is not None and head.ndim else cfg["num_classes"]
    model = ResNetV2(variant, cfg, num_classes=in_file if num_classes is None else num_classes, params={}, **options)
    shapes, fresh = model._shapes(), {}
    if model.num_classes != in_file:                              # the trunk is kept, the classifier is not
        tensors = {n: t for n, t in tensors.items() if not n.startswith("head.fc.")}
        fresh = initial_state(model._head_shapes(), seed)
        if fresh:
            warnings.warn(f"{source} has {in_file} classes, {num_classes} were asked for: the classifier is randomly initialised",
                          stacklevel=2)
    first = f"{cfg['first_conv']}.weight"
    if in_chans != 3 and first in tensors and tensors[first].ndim == 4 and tensors[first].shape[1] == 3:
        tensors[first] = adapt_input_conv(tensors[first], in_chans)
    if tensors.get("head.fc.weight", np.empty(0)).shape == (in_file, model.num_features, 1, 1) and global_pool == "catavgmax":
        raise WeightsError(f"{source}: head.fc.weight: global_pool='catavgmax' doubles the classifier's inputs, expected shape "
                           f"{shapes['head.fc.weight']}, found {tensors['head.fc.weight'].shape}; give num_classes=0 for embeddings")
    model._set_params(check_weights(tensors | fresh, shapes, source))
    return model


def choose_backend(name: str) -> str:
    """The backend to use for "auto" or a name.

    Raises ValueError if there is none of that name; for "cuda" MissingDependencyError without numba-cuda, DeviceError without a GPU for it.
    """
    if name == "auto":
        from cuda_kernels import is_available
        name = os.environ.get("NPRESNET_BACKEND") or ("cuda" if is_available() else "numba")
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    if name == "cuda":
        from cuda_kernels import check_available
        check_available()
    return name

"""Many pictures: a model, the transform that its weights want, and threads that read ahead of it.

    predictor = npresnet.Predictor("resnetv2_50.a1h_in1k")
    for answer in predictor.stream(Path("holiday").glob("*.jpg")):
        print(answer.source, answer.error or answer.value[0].label)

Axes: N pictures, K classes, D numbers of an embedding, C channels, P×Q pixels of a layer.
"""
from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .ahead import ReadAhead
from .columns import as_objects, stack
from .data import EvalTransform, create_transform, resolve_model_data_config
from .errors import ImageError
from .images import load_image
from .labels import Label, model_labels
from .lower.cores import default_threads
from .model import ResNetV2, create_model
from .ops import softmax, topk
from .sources import name_of
from .variants import DEMO

HELD = 32 * 2**20                                                 # bytes of pixels read ahead
OUTPUTS = ("topk", "probabilities", "logits", "embedding", "features")


class Prediction(NamedTuple):
    """A class that a picture may show. index: its number in the classifier. wnid: its WordNet id,
    None if unknown. label: its name. probability: in [0, 1]."""
    index: int  # type: ignore[assignment]  # hides tuple.index
    wnid: str | None
    label: str
    probability: float


def prediction(label: Label, probability: float) -> Prediction:
    """That a picture shows what `label` is of, with `probability`."""
    return Prediction(label.index, label.wnid, label.name, probability)


class Answer(NamedTuple):
    """What is known of one picture. source: as it was given. value: see `Predictor`; None if there
    is an error. error: None, or what was wrong with this picture, in one line."""
    source: Any
    value: Any
    error: str | None


class Predictor:
    """A model and all that lies between it and picture files.

    model: a name as for `create_model`, whose trained weights are then taken (published ones are
        fetched if need be), or a `ResNetV2`.
    output: what an answer's value is:
        "topk"           a list of the `top` likeliest classes, each a `Prediction`
        "probabilities"  (K,) float32, softmax of the logits
        "logits"         (K,) float32
        "embedding"      (D,) float32, what the classifier sees: the globally pooled last feature
                         map; with `normalize` divided by its L2 norm
        "features"       a dict: timm module path → (C, P, Q) float32 for each of `layers`
    layers: paths as `model.trace` has them; default the five feature maps.
    test_size: the larger picture size that the weights were evaluated at.
    draft: let the JPEG decoder make large photographs smaller. That is quicker, and the pixels are
        no longer timm's.
    column: the pictures' name in a call with columns.
    workers: threads that read pictures; default one a core.
    options: of `create_model`, such as weights, backend, exact, num_threads.

    A Predictor pickles as its configuration: where it is loaded it makes a model of its own. It
    may be used from several threads.
    Raises what `create_model` raises, and ValueError on a bad argument.
    """

    def __init__(self, model: str | ResNetV2 = DEMO.name, *, output: str = "topk", top: int = 5,
                 layers: Sequence[str] | None = None, normalize: bool = False,
                 test_size: bool = False, draft: bool = False, column: str = "image",
                 workers: int | None = None, **options: Any):
        if output not in OUTPUTS:
            raise ValueError(f"unknown output {output!r}: choose one of "
                             f"{', '.join(map(repr, OUTPUTS))}")
        for name, value in (("top", top), ("workers", 1 if workers is None else workers)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if layers is not None and output != "features":
            raise ValueError("layers chooses what output='features' gives")
        if normalize and output != "embedding":
            raise ValueError("normalize goes with output='embedding'")
        if options and isinstance(model, ResNetV2):
            raise ValueError(f"{', '.join(options)}: give a name, or the model made with them")
        self.output, self.top, self.normalize = output, top, normalize
        self.layers = None if layers is None else list(layers)
        self.test_size, self.draft, self.column = test_size, draft, column
        self.workers = workers or default_threads()
        self._source, self._options = model, options
        self._loaded: _Loaded | None = None
        self._check(self.model)

    @property
    def model(self) -> ResNetV2:
        """The model, made when it is first needed."""
        return self._load().model

    @property
    def transform(self) -> EvalTransform:
        """What makes the network's input of a picture."""
        return self._load().transform

    def stream(self, pictures: Iterable[Any], *, batch_size: int = 32) -> Iterator[Answer]:
        """An `Answer` for each of `pictures`, in order, as they are computed.

        pictures: anything that `load_image` takes, in any iterable. They are decoded and resized
        in threads of their own, which go on while others are computed, `batch_size` at once. At
        most 2 · batch_size + workers of them are held, or as many as 32 MB of pixels are.
        A picture that can't be read is answered with its error; the others don't notice.
        """
        check_many(pictures)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        return self._stream(pictures, batch_size)

    def inputs(self, pictures: Iterable[Any]) -> Iterator[Answer]:
        """As `stream`, with the network's input (C, H, W) float32 as value: nothing is computed."""
        check_many(pictures)
        return self._inputs(pictures)

    def __call__(self, columns: Any, *, batch_size: int = 32) -> Any:
        """A batch of columns in, the same columns and the results out.

        This is what Ray Data's `map_batches`, Dask's `map_partitions` and Spark's
        `predict_batch_udf` call. columns: a mapping from names to columns of N, or a pandas
        DataFrame; the one called `self.column` ("image") holds pictures.
        The new columns, one row a picture: "error" (text, empty if there is none), and for "topk"
        "index" (N, top) int64, "wnid" and "label" (lists of text), "probability" (N, top) float32;
        for "probabilities", "logits" and "embedding" one of that name, (N, K) or (N, D) float32;
        for "features" one for each layer. A picture with an error has NaN there, the index −1 and
        empty texts: types and shapes are the same in every batch, whatever is in it.
        """
        if not (isinstance(columns, Mapping) or hasattr(columns, "assign")):
            raise TypeError(f"expected columns by name, such as {{{self.column!r}: pictures}}, got "
                            f"{type(columns).__name__}; for pictures alone call stream")
        if self.column not in columns:
            raise ValueError(f"there is no column {self.column!r} among "
                             f"{', '.join(map(repr, columns))}: name it with column=")
        answers = list(self.stream(iter(columns[self.column]), batch_size=batch_size))
        results = self._columns(answers)
        if hasattr(columns, "assign"):                            # a table has flat columns alone
            return columns.assign(**{name: as_objects(column) for name, column in results.items()})
        return {**columns, **results}

    def __repr__(self) -> str:
        return f"<npresnet.Predictor {self.output} of {self.model!r}>"

    # --- inside -----------------------------------------------------------------------------------

    def _load(self) -> _Loaded:
        loaded = self._loaded
        if loaded is None:                # unpickled; of several threads' models one remains
            model = self._source
            if not isinstance(model, ResNetV2):
                trained = model == DEMO.name or self._options.get("weights") is not None
                model = create_model(model, **{"pretrained": not trained} | self._options)
            config = resolve_model_data_config(model, use_test_size=self.test_size)
            transform = create_transform(**config)
            loaded = _Loaded(model, transform, replace(transform, normalize=False),
                             model_labels(model))
            self._loaded = loaded
        return loaded

    def _check(self, model: ResNetV2) -> None:
        """Raise ValueError if `model` can't give the output."""
        classifies = bool(model.num_classes and model.global_pool)
        if model.in_chans != 3:
            raise ValueError(f"pictures have 3 channels, the model takes {model.in_chans}")
        if model.features_only and self.output != "features":
            raise ValueError(f"a model made with features_only=True gives no {self.output}")
        if self.output in ("topk", "probabilities", "logits") and not classifies:
            raise ValueError(f"a model without a classifier or a global pool gives no "
                             f"{self.output}: choose output='embedding' or 'features'")
        known = [layer.path for layer in model.graph.layers]
        for path in self.layers or ():
            if path not in known:
                raise ValueError(f"there is no layer {path!r} in {model.variant.name}; "
                                 "model.summary() lists them")

    def _read(self, source: Any) -> np.ndarray | str:
        """The pixels (C, H, W) uint8 that the network sees, or what is wrong with the picture.

        Numbers for the network are made of them later: they take four times the memory.
        """
        transform = self._load().pixels
        draft = transform.draft_size if self.draft else None
        try:
            image = load_image(source, draft=draft)
            try:
                return transform(image)
            except ImageError as error:                           # the transform knows no name
                return f"{name_of(source)}: {error}"
        except ImageError as error:
            return str(error)
        except MemoryError:
            return f"{name_of(source)}: needs more memory than there is; make it smaller"

    def _inputs(self, pictures: Iterable[Any]) -> Iterator[Answer]:
        scale = self.transform.scale
        with ReadAhead(pictures, self._read, workers=self.workers, limit=self.workers) as reader:
            while each := reader.take(1):
                (source, read), = each
                if isinstance(read, str):
                    yield Answer(source, None, read)
                else:
                    yield Answer(source, scale(read), None)

    def _stream(self, pictures: Iterable[Any], batch_size: int) -> Iterator[Answer]:
        ahead = max(2 * batch_size + self.workers, HELD // (3 * math.prod(self.transform.size)))
        with ReadAhead(pictures, self._read, workers=self.workers, limit=ahead) as reader:
            while batch := reader.take(batch_size):
                yield from self._answer(batch)

    def _answer(self, batch: list[tuple[Any, np.ndarray | str]]) -> Iterator[Answer]:
        """Answers to pictures that were read."""
        pixels = [read for _, read in batch if not isinstance(read, str)]
        x = np.empty((len(pixels), 3, *self.transform.size), np.float32)            # (N, C, H, W)
        for own, each in zip(x, pixels):
            self.transform.scale(each, out=own)
        values = iter(self._compute(x) if pixels else ())
        for source, read in batch:
            if isinstance(read, str):
                yield Answer(source, None, read)
            elif (value := next(values)) is None:
                yield Answer(source, None, f"{name_of(source)}: the weights are finite, but what "
                                           "they make of this picture is not")
            else:
                yield Answer(source, value, None)

    def _compute(self, x: np.ndarray) -> list[Any]:
        """A value for each picture of x (N, C, H, W); None where it isn't finite."""
        model, labels = self.model, self._load().labels
        paths = self._paths(model)
        try:
            maps = model._engine.maps(x, paths)                   # each (N, K, P, Q)
        except KeyError as error:
            raise ValueError(f"the {model.backend} backend doesn't compute {error}: it is fused "
                             "with its neighbours there; backend='numpy' computes every layer"
                             ) from None
        if self.output == "features":
            return [dict(zip(paths, each)) for each in zip(*maps)]
        y = maps[0].reshape(maps[0].shape[:2]) if model.global_pool else maps[0]     # (N, K)
        if self.output == "embedding" and self.normalize:
            norm = np.linalg.norm(y.astype(np.float64), axis=1, keepdims=True)      # (N, 1)
            y = (y / np.where(norm > 0, norm, 1)).astype(np.float32)
        if self.output in ("topk", "probabilities"):
            y = softmax(y)
        bad = [not np.isfinite(each).all() for each in y]
        values: list[Any] = list(y)
        if self.output == "topk":
            chosen = topk(y, min(self.top, len(labels)))
            values = [[prediction(labels[i], float(p)) for p, i in zip(*row)]
                      for row in zip(*chosen)]
        return [None if no else value for no, value in zip(bad, values)]

    def _paths(self, model: ResNetV2) -> list[str]:
        """The layers that the output is made of."""
        if self.output == "features":
            return self.layers or [each.path for each in model.graph.feature_maps]
        return ["head.global_pool" if self.output == "embedding" else "head.fc"]

    def _columns(self, answers: list[Answer]) -> dict[str, np.ndarray]:
        """Answers as columns."""
        model, transform = self.model, self.transform
        values = [answer.value for answer in answers]
        errors = as_objects([answer.error or "" for answer in answers])
        if self.output == "topk":
            width = min(self.top, model.num_classes)
            rows = [value or [Prediction(-1, None, "", np.nan)] * width for value in values]
            index = np.array([[each.index for each in row] for row in rows], np.int64)
            p = np.array([[each.probability for each in row] for row in rows], np.float32)
            return dict(
                index=index.reshape(-1, width),                   # (N, top), even if N is 0
                wnid=as_objects([[each.wnid or "" for each in row] for row in rows]),
                label=as_objects([[each.label for each in row] for row in rows]),
                probability=p.reshape(-1, width), error=errors)
        paths, shapes = self._paths(model), model.graph.shapes(*transform.size)
        if self.output == "features":
            return {path: stack([value and value[path] for value in values], shapes[path])
                    for path in paths} | {"error": errors}
        shape = shapes[paths[0]][:1 if model.global_pool else 3]
        return {self.output: stack(values, shape), "error": errors}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | dict(_loaded=None)


class _Loaded(NamedTuple):
    model: ResNetV2
    transform: EvalTransform
    pixels: EvalTransform                                         # the same, without arithmetic
    labels: tuple[Label, ...]


def check_many(pictures: Any) -> None:
    """Raise TypeError for one picture: its characters or lines would be taken for pictures."""
    if isinstance(pictures, (str, bytes, bytearray, os.PathLike)) or hasattr(pictures, "read"):
        raise TypeError(f"expected many pictures, got one {type(pictures).__name__}: "
                        "put it in a list")

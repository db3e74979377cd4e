"""Pictures in scikit-learn's pipelines: `Embedder` turns them into rows of numbers.

    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from npresnet.sklearn import Embedder

    classifier = make_pipeline(Embedder("demo", normalize=True), LogisticRegression())
    classifier.fit(files, labels).predict(other_files)

Needs the extra `sklearn`. Axes: N pictures, D numbers each.
"""
from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from .errors import ImageError, MissingDependencyError
from .predict import Predictor
from .variants import find_variant

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
except ImportError:
    raise MissingDependencyError("npresnet.sklearn needs scikit-learn: "
                                 "pip install \"npresnet[sklearn]\"") from None

class Embedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Pictures → embeddings (N, D) float32: what the network knows before it names a class.

    A scikit-learn transformer. It has nothing to learn, so `fit` does nothing and `transform` works
    without it; it can be cloned, searched over, pickled (its settings are, not the weights) and put
    into pipelines, and `set_output` gives data frames. The model is loaded when it is first needed,
    once for all embedders with the same settings in a process.

    model: a name that `create_model` takes; weights: a safetensors file for it. Without one
        published weights are fetched; "demo" is inside the package.
    batch_size: pictures a call of the network. normalize: scale each row to length 1, after which
        scalar products are cosines. backend, num_threads: as of `create_model`.
    """

    def __init__(self, model: str = "demo", *, weights: str | os.PathLike[str] | None = None,
                 batch_size: int = 32, normalize: bool = False, backend: str = "auto",
                 num_threads: int | None = None):
        self.model = model
        self.weights = weights
        self.batch_size = batch_size
        self.normalize = normalize
        self.backend = backend
        self.num_threads = num_threads

    def fit(self, X: Any, y: Any = None) -> Embedder:
        """Itself: there is nothing to learn. Raises ValueError on bad settings."""
        self._check()
        return self

    def transform(self, X: Any) -> Any:
        """Embeddings (N, D) float32 of N pictures, row by row.

        X: a list, an array or a column (a data frame with one, too) of whatever
            `npresnet.load_image` takes: paths, bytes, Pillow's pictures, arrays of pixels. An array
            uint8 (N, H, W, 3) is N pictures.
        Raises ImageError, naming the row, if one can't be used; ValueError on bad settings, or if X
        isn't a column; and what `create_model` raises.
        """
        self._check()
        pictures = _column(X)
        rows = np.empty((len(pictures), self._n_features_out), np.float32)          # (N, D)
        path = None if self.weights is None else os.fspath(self.weights)
        predictor = _load(self.model, path, _version(path), self.normalize, self.backend,
                          self.num_threads)
        answers = predictor.stream(iter(pictures), batch_size=self.batch_size)
        for row, answer in enumerate(answers):
            if answer.error is not None:
                raise ImageError(f"row {row}: {answer.error}")
            rows[row] = answer.value
        return rows

    def _check(self) -> None:
        if not isinstance(self.batch_size, (int, np.integer)) or self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size!r}")
        find_variant(self.model)

    @property
    def _n_features_out(self) -> int:
        """How wide an embedding is; for `get_feature_names_out`, without loading the model."""
        return find_variant(self.model)[0].channels[-1]

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []                # always float32
        tags.requires_fit = False
        tags.no_validation = True
        return tags


@lru_cache(maxsize=2)
def _load(name: str, weights: str | None, version: tuple[int, int] | None, normalize: bool,
          backend: str, num_threads: int | None) -> Predictor:
    """What embeds pictures. version: of the weights' file."""
    return Predictor(name, weights=weights, output="embedding", normalize=normalize,
                     backend=backend, num_threads=num_threads)


def _version(path: str | None) -> tuple[int, int] | None:
    """Changes when another file takes its place."""
    if path is None or not os.path.exists(path):
        return None
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size


def _column(X: Any) -> Any:
    """The pictures in X, as a sequence. Raises ValueError if it is no column of them."""
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):          # a data frame
        X = X.to_numpy()
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == 1 and X.dtype.kind in "OUST":
        X = X[:, 0]
    one = isinstance(X, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(X, "read")
    one = one or isinstance(X, np.ndarray) and X.ndim == 0
    if one or not isinstance(X, Iterable) or isinstance(X, dict):
        raise ValueError(f"expected a list, an array or a column of pictures, got "
                         f"{type(X).__name__}; a single one goes into a list, [picture]")
    if isinstance(X, np.ndarray) and X.ndim == 2:
        raise ValueError(f"expected one column of pictures, got a table of shape {X.shape}")
    return X if isinstance(X, (list, tuple, np.ndarray)) else list(X)

"""npresnet: ResNetV2 without a framework, in NumPy to read and step through, with timm's numbers.

    import npresnet
    from PIL import Image

    model = npresnet.create_model("demo")       # or "resnetv2_50.a1h_in1k", pretrained=True
    config = npresnet.data.resolve_model_data_config(model)
    transform = npresnet.data.create_transform(**config)
    image = Image.open("photo.jpg").convert("RGB")
    logits = model(transform(image)[None])      # (1, classes) float32

Everything is imported when it is first used, so `import npresnet` costs next to nothing.
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__ as __version__

if TYPE_CHECKING:
    from . import data as data
    from . import explain as explain
    from . import ops as ops
    from . import sklearn as sklearn
    from .errors import DeviceError as DeviceError
    from .errors import DownloadError as DownloadError
    from .errors import ImageError as ImageError
    from .errors import MissingDependencyError as MissingDependencyError
    from .errors import NpresnetError as NpresnetError
    from .errors import WeightsError as WeightsError
    from .images import load_image as load_image
    from .instruments.comparison import Comparison as Comparison
    from .instruments.comparison import LayerDifference as LayerDifference
    from .instruments.comparison import compare as compare
    from .labels import Label as Label
    from .labels import imagenet_labels as imagenet_labels
    from .labels import model_labels as model_labels
    from .model import ResNetV2 as ResNetV2
    from .model import create_model as create_model
    from .ops import softmax as softmax
    from .ops import topk as topk
    from .predict import Answer as Answer
    from .predict import Prediction as Prediction
    from .predict import Predictor as Predictor
    from .summary import Summary as Summary
    from .variants import list_models as list_models
    from .weights import read_weights as read_weights
    from .weights import write_weights as write_weights

_HOME = {
    "errors": ("DeviceError", "DownloadError", "ImageError", "MissingDependencyError",
               "NpresnetError", "WeightsError"),
    "images": ("load_image",),
    "instruments.comparison": ("compare", "Comparison", "LayerDifference"),
    "labels": ("Label", "imagenet_labels", "model_labels"),
    "model": ("ResNetV2", "create_model"),
    "ops": ("softmax", "topk"),
    "predict": ("Answer", "Prediction", "Predictor"),
    "summary": ("Summary",),
    "variants": ("list_models",),
    "weights": ("read_weights", "write_weights"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
_MODULES = ("data", "explain", "ops")
__all__ = [*_MODULE_OF, *_MODULES]


def __getattr__(name: str) -> object:
    if name in _MODULES or name == "sklearn":                     # which may not be installed
        return import_module(f".{name}", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value                                       # looked up once
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""Arrays that a model can't take: what it says of them leads to the right answer."""
from __future__ import annotations

import numpy as np
import pytest
from helpers import BACKENDS, assert_close, awkward_picture
from PIL import Image

import npresnet
from npresnet.backend import describe_misfit

SHAPES = [(30, 40, 3), (1, 30, 40, 3), (3, 30, 40), (2, 3, 30, 40), (30, 40), (1, 3, 0, 4)]


@pytest.fixture(scope="module", params=BACKENDS)
def model(request):
    if request.param == "cuda":
        from cuda_kernels import is_available
        found = is_available()
        if not found:
            pytest.skip(f"needs a GPU: {found.reason}")
    return npresnet.create_model("demo", backend=request.param)


def error_of(call, x) -> str:
    with pytest.raises(ValueError, match="^expected ") as caught:
        call(x)
    return str(caught.value)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_pixels_are_told_to_go_through_the_transform(model, shape, dtype):
    """As float32 they would be another picture to the network, and of a wrong class."""
    message = error_of(model, np.zeros(shape, dtype))
    assert "create_transform(**npresnet.data.resolve_model_data_config(model))" in message
    assert str(shape) in message and "astype" not in message


@pytest.mark.slow
def test_the_advice_leads_to_the_answer(model):
    image = Image.fromarray(awkward_picture(200, 180))
    transform = npresnet.data.create_transform(**npresnet.data.resolve_model_data_config(model))
    x = transform(image)[None]                                    # (1, C, H, W)
    want = model(x)
    for wrong in (x[0], x.transpose(0, 2, 3, 1), x[0].transpose(1, 2, 0), x.astype(np.float64),
                  x[0].astype(np.float64), x.transpose(0, 2, 3, 1).astype(np.float64)):
        message = error_of(model, wrong)
        mended = eval(message.split(" with ")[1], {"x": wrong, "np": np})
        assert_close(message, model(mended), want, 1e-5)
    advice = error_of(model, np.asarray(image)).split("transform: ")[1]
    known = {"npresnet": npresnet, "model": model, "pixels": np.asarray(image)}
    assert_close(advice, model(eval(advice, known)), want, 1e-5)


def test_features_are_no_pictures(model):
    features = np.zeros((1, 2, 2, 512), np.float32)
    message = error_of(model.forward_head, features)
    assert message.endswith("put them first with x.transpose(0, 3, 1, 2)")
    message = error_of(model.forward_head, features.transpose(0, 3, 1, 2).astype(np.uint8))
    assert message == "expected features of dtype float32, got uint8 of shape (1, 512, 2, 2)"


@pytest.mark.parametrize("x, says", [
    (np.zeros((1, 3, 40, 3), "f"), ""), (np.zeros((1, 3, 40, 50)), "x.astype(np.float32)"),
    (np.zeros((3, 40, 3), "f"), "add the batch axis with x[None]"),
    (np.zeros((1, 1, 40, 50), "f"), "got (1, 1, 40, 50)"), (np.float32(1), "got ()"),
    (np.array(["a"]), "got (1,)"), (np.zeros((40, 0, 3), "f"), "got (40, 0, 3)")])
def test_what_a_shape_may_mean(x, says):
    message = describe_misfit("pictures", x, 3)
    assert message.endswith(says) and bool(message) == bool(says)

"""A file's weights in a model with another number of classes or of input channels."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import assert_close, random_pictures
from tiny_weights import (
    CLASSES,
    X,
    assert_same_state,
    error_of,
    file_fixture,
    state_fixture,
    tiny_model,
    tiny_variants,
)

from npresnet import create_model, read_weights, write_weights


def trunk(model):
    return {n: a for n, a in model.state_dict().items() if not n.startswith("head.")}


def test_another_number_of_classes_keeps_the_trunk_and_warns(file):
    whole = create_model("tiny", weights=file)
    warning = (r"tiny\.safetensors has 4 classes, 7 were asked for: "
               "the classifier is randomly initialised")
    with pytest.warns(UserWarning, match=warning):
        model = create_model("tiny", weights=file, num_classes=7)
    assert model.num_classes == 7 and model(X).shape == (2, 7)
    assert_same_state(trunk(model), trunk(whole))
    assert np.abs(model.state_dict()["head.fc.weight"]).max() > 0
    assert not model.state_dict()["head.fc.bias"].any()


def test_a_new_classifier_is_small_and_drawn_from_the_seed(file):
    heads = []
    for seed in (0, 0, 1):
        with pytest.warns(UserWarning, match="randomly initialised") as caught:
            model = create_model("tiny", weights=file, num_classes=900, seed=seed)
        assert [warning.filename for warning in caught] == [__file__], "points to the caller"
        heads.append(model.state_dict()["head.fc.weight"])
    np.testing.assert_array_equal(heads[0], heads[1])
    assert not np.array_equal(heads[0], heads[2])
    assert heads[0].std() == pytest.approx(0.01, rel=0.02)        # timm's σ, of 57,600 numbers


@pytest.mark.parametrize("num_classes", [None, CLASSES])
def test_the_files_own_classifier_is_kept(file, num_classes, recwarn):
    model = create_model("tiny", weights=file, num_classes=num_classes)
    want = read_weights(file)["head.fc.weight"]
    np.testing.assert_array_equal(model.state_dict()["head.fc.weight"], want)
    assert model.pretrained_cfg["num_classes"] == CLASSES and not recwarn


def test_embeddings_and_feature_maps_need_no_classifier(tmp_path, file, state, recwarn):
    whole = create_model("tiny", weights=file)
    bare = tmp_path / "bare.safetensors"
    write_weights(bare, {n: a for n, a in state.items() if not n.startswith("head.")})
    for path in (file, bare):
        model = create_model("tiny", weights=path, num_classes=0)
        assert_same_state(model.state_dict(), trunk(whole))
        embedding = whole.forward_head(whole.forward_features(X), pre_logits=True)
        np.testing.assert_array_equal(model(X), embedding)
        maps = create_model("tiny", weights=path, features_only=True)(X)
        want = whole.forward_intermediates(X, intermediates_only=True)
        np.testing.assert_array_equal(maps[-1], want[-1])
    assert not recwarn
    assert error_of(create_model, "tiny", weights=bare) == (
        f"{bare}: missing tensor head.fc.weight, head.fc.bias; "
        "it has no classifier: give num_classes=0 for embeddings")
    with pytest.warns(UserWarning, match="randomly initialised"):
        assert create_model("tiny", weights=bare, num_classes=3)(X).shape == (2, 3)


def test_a_grey_picture_gives_what_its_rgb_copy_gives(file):
    grey = X[:, :1]
    want = create_model("tiny", weights=file)(np.repeat(grey, 3, axis=1))
    assert_close("logits", create_model("tiny", weights=file, in_chans=1)(grey), want, 1e-6)


@pytest.mark.parametrize("in_chans", [1, 2, 4, 7])
def test_weights_for_three_channels_are_adapted_as_timm_does(file, in_chans):
    rgb = torch.from_numpy(read_weights(file)["stem.conv.weight"].copy())
    if in_chans == 1:
        want = rgb.sum(1, keepdim=True)
    else:
        want = rgb.repeat(1, 3, 1, 1)[:, :in_chans] * (3 / in_chans)
    model = create_model("tiny", weights=file, in_chans=in_chans)
    assert_close("stem", model.state_dict()["stem.conv.weight"], want.numpy(), 1e-6)
    assert model(random_pictures(1, in_chans, 32, 32)).shape == (1, CLASSES)


def test_weights_made_for_four_channels_load_as_they_are(tmp_path):
    path = tmp_path / "a.safetensors"
    model = tiny_model(in_chans=4)
    model.save(path)
    again = create_model("tiny", weights=path, in_chans=4)
    assert_same_state(again.state_dict(), model.state_dict())
    message = error_of(create_model, "tiny", weights=path)
    assert "stem.conv.weight: expected shape (8, 3, 7, 7), found (8, 4, 7, 7)" in message

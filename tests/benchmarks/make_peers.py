"""Write a folder with the same network and weights for PyTorch and as ONNX, for `npresnet bench`.

    pip install torch onnx onnxruntime openvino
    python tests/benchmarks/make_peers.py /tmp/peers
    npresnet bench --peers /tmp/peers

model.safetensors: the weights, in timm's names.
torch_twin.py:     the network in PyTorch, a copy of the tests'.
model.onnx:        the same, for any number of pictures of one size.
peers.json:        the model's name, that size, the PyTorch network's arguments, and the versions.

Without --weights the weights are random ("demo" has its own). "done" means that PyTorch and ONNX
Runtime were seen to compute what npresnet does.
"""
from __future__ import annotations

import argparse
import json
import shutil
import sys
import warnings
from pathlib import Path

import onnxruntime
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
import torch_twin
from helpers import LOGITS_TOLERANCE, assert_close, random_pictures, random_state

import npresnet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--model", default="resnetv2_50", metavar="NAME",
                        help="one of `npresnet models` (default: resnetv2_50)")
    parser.add_argument("--weights", metavar="FILE",
                        help="a safetensors file for it (default: random weights)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"),
                        help="of the pictures (default: the model's own)")
    parser.add_argument("--seed", type=int, default=0, metavar="N",
                        help="of the random weights (default: 0)")
    args = parser.parse_args()
    model = npresnet.create_model(args.model, weights=args.weights, backend="numpy")
    if args.weights is None and args.model != "demo":
        shapes = {name: array.shape for name, array in model.state_dict().items()}
        model.load_state_dict(random_state(shapes, args.seed))
    size = tuple(args.size or model.pretrained_cfg["input_size"][1:])
    make_peers(args.folder, model, args.model, size)
    print(f"done: npresnet bench --peers {args.folder}")


def make_peers(folder: Path, model: npresnet.ResNetV2, name: str, size: tuple[int, int]) -> None:
    """Write the four files of `model`, called `name`, for pictures of `size` (H, W).

    Check what two runtimes make of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peers.json").unlink(missing_ok=True)               # written last, when all is there
    model.save(folder / "model.safetensors")
    shutil.copyfile(torch_twin.__file__, folder / "torch_twin.py")
    variant = model.variant
    network = dict(depths=variant.depths, basic=variant.block == "basic", stem=variant.stem,
                   avg=variant.avg_down, width=variant.width, num_classes=model.num_classes)
    twin = torch_twin.TorchResNetV2(**network).eval()
    twin.load_state_dict({key: torch.from_numpy(array.copy())
                          for key, array in model.state_dict().items()})
    x = random_pictures(2, 3, *size)                              # (N, C, H, W)
    onnx, tolerance = folder / "model.onnx", LOGITS_TOLERANCE["numpy"]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")                           # dynamo=False needs no onnxscript
        torch.onnx.export(twin, (torch.from_numpy(x),), str(onnx), dynamo=False,
                          input_names=["x"], output_names=["logits"],
                          dynamic_axes={"x": {0: "n"}, "logits": {0: "n"}})
        session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        for n in (1, 2):                                          # pictures in a batch
            want = model(x[:n])                                   # (N, classes)
            got = twin(torch.from_numpy(x[:n])).numpy()
            assert_close(f"torch_twin.py, batch {n}", got, want, tolerance)
            got = session.run(None, {"x": x[:n]})[0]
            assert_close(f"model.onnx, batch {n}", got, want, tolerance)
    versions = dict(npresnet=npresnet.__version__, torch=torch.__version__,
                    onnxruntime=onnxruntime.__version__)
    peers = dict(model=name, input_size=[3, *size], network=network, versions=versions)
    (folder / "peers.json").write_text(json.dumps(peers, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Train the embedded demo: ResNetV2-50 at a quarter of its width, on the ten classes of Imagenette.

    python tests/training/train_demo.py --data ../shared/data/imagenette160 --out /tmp/demo

`--data` is an image folder with `train/<wnid>/*` and `val/<wnid>/*`; labels are the sorted WordNet
ids. Pictures in `val/` are never trained on: they are scored every few epochs for the curve and
once more at the end. The weights that ship are those of the last epoch's moving average; no epoch
is picked by its score. A checkpoint is written after every epoch and found again on a restart.

Recipe: SGD with Nesterov momentum, one cycle, progressive size (96 then 128 px), random resized
crops, flips, colour jitter, mixup and CutMix, label smoothing, bfloat16 autocast, exponential
moving average of the weights, zero-initialised `conv3`.
"""
from __future__ import annotations

import argparse
import copy
import json
import math
import queue
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from torch_twin import TorchResNetV2

RECIPE = dict(seed=0, epochs=130, small_epochs=80, small_px=96, px=128, batch=64, lr=0.08,
              momentum=0.9, weight_decay=5e-4, warmup=5, label_smoothing=0.1, mixup=0.2, cutmix=1.0,
              p_mixup=0.5, p_cutmix=0.25, crop_scale=(0.3, 1.0), jitter=0.3, ema=0.999, eval_px=160)


def load_folder(folder: Path) -> tuple[list[Image.Image], np.ndarray, list[str]]:
    """Pictures (RGB, decoded into memory), labels (N,) int64 and the sorted class folders."""
    wnids = sorted(p.name for p in folder.iterdir() if p.is_dir())
    files = [(path, label) for label, wnid in enumerate(wnids)
             for path in sorted((folder / wnid).iterdir())]
    with ThreadPoolExecutor(2) as pool:
        pictures = list(pool.map(lambda f: Image.open(f[0]).convert("RGB"), files))
    return pictures, np.array([label for _, label in files]), wnids


def random_crop(picture: Image.Image, px: int, scale: tuple[float, float],
                rng: np.random.Generator) -> np.ndarray:
    """A random part of `picture`, resized to px×px: (px, px, 3) uint8.

    Its area is the share `scale` of the whole, its aspect 3:4 to 4:3. Half the time it is flipped.
    """
    w, h = picture.size
    for _ in range(10):
        area = w * h * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        cw, ch = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if cw <= w and ch <= h:
            break
    else:
        cw = ch = min(w, h)
    x, y = rng.integers(w - cw + 1), rng.integers(h - ch + 1)
    box = (x, y, x + cw, y + ch)
    crop = np.asarray(picture.resize((px, px), Image.Resampling.BICUBIC, box=box))
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def batches(pictures, labels, px, recipe, rng, steps):
    """Yield (uint8 (B, px, px, 3), labels (B,)), prepared one thread ahead of the training step."""
    ready: queue.Queue = queue.Queue(maxsize=8)
    order = rng.permutation(len(pictures))

    def fill():
        for step in range(steps):
            at = order[step * recipe["batch"]:(step + 1) * recipe["batch"]]
            crops = [random_crop(pictures[i], px, recipe["crop_scale"], rng) for i in at]
            ready.put((np.stack(crops), labels[at]))

    threading.Thread(target=fill, daemon=True).start()
    for _ in range(steps):
        yield ready.get()


def augment(x, y, classes, recipe, rng):
    """Colour jitter, then mixup or CutMix, on the batch.

    x (B, 3, px, px) in [-1, 1] float32, y (B,) → x and soft targets (B, classes).
    """
    n, j, smoothing = len(x), recipe["jitter"], recipe["label_smoothing"]

    def factor():
        return torch.from_numpy(rng.uniform(1 - j, 1 + j, (n, 1, 1, 1)).astype("f"))

    x = (x + 1) * factor() - 1                                    # brightness
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * factor() + mean                              # contrast
    grey = x.mean(1, keepdim=True)
    x = ((x - grey) * factor() + grey).clamp(-1, 1)               # saturation
    target = F.one_hot(y, classes).float() * (1 - smoothing) + smoothing / classes
    other, kind = torch.from_numpy(rng.permutation(n)), rng.random()
    if kind < recipe["p_mixup"]:
        lam = rng.beta(recipe["mixup"], recipe["mixup"])
        lam = max(lam, 1 - lam)
        x, target = x.lerp(x[other], 1 - lam), target.lerp(target[other], 1 - lam)
    elif kind < recipe["p_mixup"] + recipe["p_cutmix"]:
        px, side = x.shape[-1], math.sqrt(1 - rng.beta(recipe["cutmix"], recipe["cutmix"]))
        cy, cx = rng.integers(px), rng.integers(px)
        half = int(px * side / 2)
        y0, y1 = max(cy - half, 0), min(cy + half, px)
        x0, x1 = max(cx - half, 0), min(cx + half, px)
        x[:, :, y0:y1, x0:x1] = x[other][:, :, y0:y1, x0:x1].clone()
        share = (y1 - y0) * (x1 - x0) / px**2
        target = target.lerp(target[other], share)
    return x, target


def to_tensor(batch: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) → float32 (B, 3, H, W) channels-last, in [-1, 1] (mean = std = 0.5)."""
    x = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2)
    return x.float().div(127.5).sub(1)


def centre_crop(picture: Image.Image, px: int) -> np.ndarray:
    """The short edge resized to px (bicubic) and the centre cut out: (px, px, 3) uint8."""
    w, h = picture.size
    size = (px, int(px * h / w)) if w < h else (int(px * w / h), px)
    picture = picture if min(w, h) == px else picture.resize(size, Image.Resampling.BICUBIC)
    left, top = round((picture.width - px) / 2), round((picture.height - px) / 2)
    return np.asarray(picture.crop((left, top, left + px, top + px)))


@torch.no_grad()
def accuracy(model, crops, labels) -> float:
    """Top-1 of `model` (eval, float32) on prepared crops (N, px, px, 3) uint8."""
    model.eval()
    right = 0
    for i in range(0, len(crops), 50):
        found = model(to_tensor(crops[i:i + 50])).argmax(1).numpy()
        right += int((found == labels[i:i + 50]).sum())
    return right / len(labels)


def one_cycle(step, total, warm, peak):
    """Linear from peak/25 up to peak over `warm` steps, then a cosine down to (almost) nothing."""
    if step < warm:
        return peak * (0.04 + 0.96 * step / warm)
    return peak * (0.5 + 0.5 * math.cos(math.pi * (step - warm) / (total - warm))) + 1e-5


def initialise(model: nn.Module) -> None:
    """He weights; but every block starts as the identity, and the classifier almost at zero."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if name == "head.fc":
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
            elif name.endswith("conv3"):
                nn.init.zeros_(module.weight)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@torch.no_grad()
def follow(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """One step of the moving average."""
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
    for mean, new in zip(ema.buffers(), model.buffers()):
        mean.copy_(mean.lerp(new, 1 - decay) if mean.is_floating_point() else new)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=RECIPE["epochs"])
    args = parser.parse_args()
    small_epochs = round(args.epochs * RECIPE["small_epochs"] / RECIPE["epochs"])
    recipe = RECIPE | dict(epochs=args.epochs, small_epochs=small_epochs)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe["seed"])

    pictures, labels, wnids = load_folder(args.data / "train")
    val_pictures, val_labels, _ = load_folder(args.data / "val")
    val_crops = np.stack([centre_crop(p, recipe["eval_px"]) for p in val_pictures])
    del val_pictures
    print(f"{len(labels)} training pictures, {len(val_labels)} held out, {len(wnids)} classes",
          flush=True)

    model = TorchResNetV2(width=0.25, num_classes=len(wnids)).to(memory_format=torch.channels_last)
    initialise(model)
    ema = copy.deepcopy(model)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [dict(params=decayed, weight_decay=recipe["weight_decay"]),
              dict(params=plain, weight_decay=0)]
    optimiser = torch.optim.SGD(groups, lr=recipe["lr"], momentum=recipe["momentum"],
                                nesterov=True)
    steps = len(labels) // recipe["batch"]
    curve, first = [], 0
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(saved["model"])
        ema.load_state_dict(saved["ema"])
        optimiser.load_state_dict(saved["optimiser"])
        curve, first = saved["curve"], saved["epoch"] + 1

    for epoch in range(first, recipe["epochs"]):
        rng = np.random.default_rng([recipe["seed"], epoch])
        started, losses = time.perf_counter(), []
        px = recipe["small_px"] if epoch < recipe["small_epochs"] else recipe["px"]
        model.train()
        mixing = np.random.default_rng([recipe["seed"], epoch, 1])
        for step, (batch, y) in enumerate(batches(pictures, labels, px, recipe, rng, steps)):
            done = epoch * steps + step
            for group in optimiser.param_groups:
                group["lr"] = one_cycle(done, recipe["epochs"] * steps, recipe["warmup"] * steps,
                                        recipe["lr"])
            x, target = augment(to_tensor(batch), torch.from_numpy(y), len(wnids), recipe, mixing)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            follow(ema, model, min(recipe["ema"], (1 + done) / (10 + done)))
        row = dict(epoch=epoch, px=px, loss=round(float(np.mean(losses)), 4),
                   seconds=round(time.perf_counter() - started, 1))
        if epoch % 5 == 4 or epoch == recipe["epochs"] - 1:
            row["val_top1"] = round(accuracy(ema, val_crops, val_labels), 4)
        curve.append(row)
        print(json.dumps(row), flush=True)
        torch.save(dict(model=model.state_dict(), ema=ema.state_dict(),
                        optimiser=optimiser.state_dict(), epoch=epoch, curve=curve), checkpoint)
    halves = {k: (v.half() if v.is_floating_point() else v).contiguous()
              for k, v in ema.state_dict().items()}
    save_file(halves, args.out / "demo.safetensors")
    record = dict(recipe=recipe, wnids=wnids, torch=torch.__version__, curve=curve)
    (args.out / "training.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()

"""Train the BinaryViT example model on Fashion-MNIST and write its checkpoint and card.

    python examples/train_fashion.py --fast --out examples/models/fashion_binaryvit.pt

Two networks of the same shape are trained, one after the other: the full-precision twin (no signs), then the binary
network, which starts from the twin's weights and learns from the twin's soft answers and the labels. The last 5 000
training images are held out and only watched; the test set is read once, at the end. Everything is drawn from
``--seed``; the result is the same again on the same machine, torch version and thread count.

``--evaluate FILE`` prints the test accuracy of a written checkpoint and trains nothing.
"""

from __future__ import annotations

import argparse
import gzip
import math
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from bvtdeploy.models import BinaryViTLe, BinaryViTLeConfig, load_model

NAMES = ["t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
MEAN, STD, SIDE, SHIFT, HELD_OUT = 0.286, 0.353, 32, 2, 5000
PREPROCESS: dict[str, Any] = {
    "width": SIDE, "height": SIDE, "channels": 1, "resize": "stretch", "filter": "bilinear", "mean": [MEAN], "std": [STD],
}  # fmt: skip
CONFIG = BinaryViTLeConfig(
    image_size=SIDE, in_channels=1, patch_size=4, dims=(64, 128), depths=(2, 3), heads=(1, 2),
    intermediate=(256, 512), reduction=(2, 1), num_classes=10,
)  # fmt: skip


def read_idx(path: Path) -> np.ndarray:
    """One idx.gz file of unsigned bytes."""
    raw = gzip.decompress(path.read_bytes())
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape)).reshape(shape).copy()


def load_split(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Preprocessed images [N, 32, 32] and labels of 'train' or 't10k'."""
    images = torch.from_numpy(read_idx(folder / f"{name}-images-idx3-ubyte.gz"))
    labels = torch.from_numpy(read_idx(folder / f"{name}-labels-idx1-ubyte.gz")).long()
    return preprocess(images), labels


def preprocess(images: Tensor) -> Tensor:
    """uint8 [N, 28, 28] -> float [N, 32, 32], as PREPROCESS states it; the runtime repeats Pillow's resampling exactly."""
    resized = [Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for image in images.numpy()]
    return (torch.from_numpy(np.stack(resized)).float() / 255 - MEAN) / STD


class Batches:
    """Shuffled batches of an epoch, each image shifted by up to SHIFT pixels and flipped half of the time."""

    def __init__(self, images: Tensor, labels: Tensor, size: int, seed: int) -> None:
        self.padded = F.pad(images, [SHIFT] * 4, value=-MEAN / STD)
        self.labels, self.size = labels, size
        self.random = torch.Generator().manual_seed(seed)
        self.steps = len(labels) // size

    def __iter__(self) -> Any:
        order = torch.randperm(len(self.labels), generator=self.random)
        span = torch.arange(SIDE)
        for step in range(self.steps):
            index = order[step * self.size : (step + 1) * self.size]
            offset = torch.randint(0, 2 * SHIFT + 1, (2, self.size, 1), generator=self.random)
            flip = torch.rand(self.size, 1, generator=self.random) < 0.5
            rows = offset[0] + span
            columns = offset[1] + torch.where(flip, SIDE - 1 - span, span)
            yield self.padded[index[:, None, None], rows[:, :, None], columns[:, None, :]][:, None], self.labels[index]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of right answers in float32, in per cent."""
    model.eval()
    right = sum(int((model(x[:, None]).argmax(1) == y).sum()) for x, y in zip(images.split(500), labels.split(500), strict=True))
    return 100.0 * right / len(labels)


def train(
    model: BinaryViTLe,
    batches: Batches,
    held_out: tuple[Tensor, Tensor],
    *,
    epochs: int,
    rate: float,
    decay: float,
    teacher: nn.Module | None,
    fast: bool,
    log: str,
    stop_after: int = 0,
    keep: Callable[[int], None] | None = None,
) -> None:
    """AdamW, up to 100 warm-up steps, then a cosine to zero.

    Args:
        teacher: gives the soft labels; None: labels only.
        fast: torch.compile and bfloat16 matrix products.
        stop_after: end after this many epochs of the schedule; 0: at its end.
        keep: called with the number of finished epochs.
    """
    matrices = [p for p in model.parameters() if p.dim() >= 2 and p.shape[0] > 1]
    others = [p for p in model.parameters() if not (p.dim() >= 2 and p.shape[0] > 1)]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}], lr=rate, fused=True
    )
    total = epochs * batches.steps
    warm_up = min(100, total // 10)
    clips = [p for name, p in model.named_parameters() if name.endswith("att_prob_clip")]
    forward = torch.compile(model) if fast else model
    teach = torch.compile(teacher) if fast and teacher is not None else teacher
    step, began = 0, time.time()
    for epoch in range(epochs):
        model.train()
        loss_sum = 0.0
        for x, y in batches:
            if step < warm_up:
                factor = (step + 1) / warm_up
            else:
                factor = 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / (total - warm_up))
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                logits = forward(x).float()
                loss = F.cross_entropy(logits, y)
                if teach is not None:
                    with torch.no_grad():
                        target = teach(x).float().softmax(1)
                    loss = 0.5 * loss + 0.5 * F.cross_entropy(logits, target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                for clip in clips:
                    clip.clamp_(min=1e-3)
            loss_sum += loss.item()
            step += 1
        print(
            f"{log} epoch {epoch + 1}/{epochs}  loss {loss_sum / batches.steps:.4f}  held-out "
            f"{accuracy(model, *held_out):.2f} %  {time.time() - began:.0f} s",
            flush=True,
        )
        if keep is not None:
            keep(epoch + 1)
        if epoch + 1 == stop_after:
            break


def round_to_half(model: nn.Module) -> None:
    """Round all parameters to the float16 values that the file holds (batch-norm statistics stay float32)."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())


def recalibrate(model: nn.Module, batches: Batches, steps: int = 160) -> None:
    """Batch-norm statistics anew, from float32 forwards of the finished weights."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        for _, (x, _) in zip(range(steps), batches, strict=False):
            model(x)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


def packed(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with float16 parameters and float32 batch-norm statistics."""
    state = {k: v.detach() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    return {k: (v if k.endswith(("running_mean", "running_var")) else v.half()).clone() for k, v in state.items()}


def save(path: Path, model: BinaryViTLe, facts: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wrapped = {
        "model": packed(model), "config": model.config.to_dict(), "preprocess": PREPROCESS, "labels": NAMES, "facts": facts,
    }  # fmt: skip
    torch.save(wrapped, path)


def card(path: Path) -> str:
    """The model card of a written checkpoint, from the facts in it."""
    stored = torch.load(path, weights_only=True)
    f, c = stored["facts"], stored["config"]
    minutes, cpu_minutes = f["wall_seconds"] / 60, f["cpu_seconds"] / 60
    held_out, twin_held_out = f["held_out_accuracy"], f["twin_held_out_accuracy"]
    schedule = ", then ".join(f"{p['epochs']} of {p['of']} epochs from learning rate {p['rate']}" for p in f["phases"])
    note = f"\n**Provenance.** {f['note']}\n" if "note" in f else ""
    arithmetic = "torch.compile and bfloat16 matrix products" if f["fast"] else "float32"
    return f"""# {path.name}: BinaryViT on Fashion-MNIST

An example model for bvtdeploy: a small binary vision transformer (the BinaryViT pyramid of Le & Li, CVPRW 2023, arXiv
2306.16678), written and trained here; no published weights were used. The numbers were measured by the run that wrote the file.

| | |
|---|---|
| test accuracy, binary model | **{f["test_accuracy"]:.2f} %** of all {f["test_images"]:,} test images, weights as stored here |
| test accuracy, full-precision twin | {f["twin_test_accuracy"]:.2f} % (the teacher: same shape, not shipped) |
| held-out accuracy, binary / twin | {held_out:.2f} % / {twin_held_out:.2f} % of the last {HELD_OUT:,} training images |
| parameters | {f["parameters"]:,}, of which {f["binary_parameters"]:,} are latent weights of one-bit layers |
| file | {path.stat().st_size:,} bytes: float16 parameters, float32 batch-norm statistics |
| training time | {minutes:.0f} min wall, {cpu_minutes:.0f} min CPU, {f["threads"]} thread, shared {f["machine"]} machine |

**Input.** Grey image, resized to {SIDE}x{SIDE} as uint8 (Pillow's bilinear filter), value/255, mean {MEAN}, deviation {STD}.
**Output.** {len(NAMES)} logits: {", ".join(NAMES)}.

**Shape.** {c["image_size"]}x{c["image_size"]} input, patch {c["patch_size"]}, stages of {c["dims"]} channels, {c["depths"]} layers,
{c["heads"]} heads, MLP {c["intermediate"]}, key/value reduction {c["reduction"]}, binary 2x2 downsampler, pooling
branches of 3 and 5, layer scale, batch norm, average-pool head. Patch embedding and classifier are full precision, all other
linears are one-bit in weights and activations.

**Data.** Fashion-MNIST, Zalando SE 2017 (Debian package dataset-fashion-mnist): the first {60000 - HELD_OUT:,} training images to
train, the last {HELD_OUT:,} to watch. Nothing was chosen by the test images.

**Recipe.** Seed {f["seed"]}. Twin: {f["teacher_epochs"]} epochs, AdamW, learning rate {f["teacher_rate"]}, weight decay 0.05,
labels only. Binary model: starts from the twin's weights,
{schedule}; AdamW, no weight decay,
half soft cross-entropy to the twin, half cross-entropy to the labels. Both: batches of {f["batch"]}, 100 warm-up
steps, then a cosine to zero, flips and shifts of up to {SHIFT} pixels; {arithmetic}.
Straight-through gradients: a triangle for activations, clipped for weights.
At the end the parameters are rounded to float16 and the batch-norm statistics are taken
anew in float32. torch {f["torch"]}, Python {f["python"]}.

```
{f["command"]}
```
{note}
**Limits.** Centred 28x28 catalogue pictures of clothes: an example and a test object, of no use on other pictures. One seed, one
run. The twin was trained for fewer epochs than the binary model, which went on from it: the two accuracies side by side say that
binarisation cost little here, not that binary beats full precision.

**Licence.** Weights: MIT, like bvtdeploy. Data: MIT, see ../data/LICENSE.fashion-mnist.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("fashion_binaryvit.pt"), help="checkpoint; the card goes beside it")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"), help="folder of the idx.gz files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--teacher-epochs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--teacher-rate", type=float, default=2e-3)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--teacher", type=Path, help="keep the twin here; if the file is there, it is used, not trained")
    parser.add_argument("--stop-after", type=int, default=0, help="end after this many of --epochs; go on from FILE.partial.pt")
    parser.add_argument("--start", type=Path, help="start the binary network from this .partial.pt instead of from the twin")
    parser.add_argument("--fast", action="store_true", help="torch.compile and bfloat16 matrix products (needs a C++ compiler)")
    parser.add_argument("--evaluate", type=Path, metavar="FILE", help="print the test accuracy of a checkpoint and stop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)

    if args.evaluate:
        test = load_split(args.data, "t10k")
        print(f"{args.evaluate}: {accuracy(load_model(args.evaluate), *test):.2f} % of {len(test[1])} test images")
        return 0

    began, cpu = time.time(), time.process_time()
    images, labels = load_split(args.data, "train")
    held_out = images[-HELD_OUT:], labels[-HELD_OUT:]
    images, labels = images[:-HELD_OUT], labels[:-HELD_OUT]
    spent = {"wall": 0.0, "cpu": 0.0}

    torch.manual_seed(args.seed)
    twin = BinaryViTLe(replace(CONFIG, float_twin=True))
    if args.teacher and args.teacher.exists():
        stored = torch.load(args.teacher, weights_only=True)
        twin.load_state_dict(stored["model"])
        spent = stored["spent"]
    elif args.teacher_epochs:
        batches = Batches(images, labels, args.batch, args.seed)
        train(twin, batches, held_out, epochs=args.teacher_epochs, rate=args.teacher_rate, decay=0.05, teacher=None,
              fast=args.fast, log="twin")  # fmt: skip
        recalibrate(twin, batches)
        if args.teacher:
            so_far = {"wall": time.time() - began, "cpu": time.process_time() - cpu}
            torch.save({"model": twin.state_dict(), "spent": so_far}, args.teacher)
    twin.eval().requires_grad_(False)
    print(f"twin held-out {accuracy(twin, *held_out):.2f} %", flush=True)

    torch.manual_seed(args.seed + 1)
    model = BinaryViTLe(CONFIG)
    clips = {k: v.clone() for k, v in model.state_dict().items() if k.endswith("att_prob_clip")}
    model.load_state_dict({**twin.state_dict(), **clips})
    phases: list[dict[str, Any]] = []
    if args.start:
        stored = torch.load(args.start, weights_only=True)
        model.load_state_dict(stored["model"])
        spent, phases = stored["spent"], stored["phases"]
    phases.append({"epochs": args.epochs, "of": args.epochs, "rate": args.rate})
    partial = args.out.with_suffix(".partial.pt")
    partial.parent.mkdir(parents=True, exist_ok=True)

    def keep(epochs: int) -> None:
        phases[-1]["epochs"] = epochs
        so_far = {"wall": time.time() - began + spent["wall"], "cpu": time.process_time() - cpu + spent["cpu"]}
        torch.save({"model": model.state_dict(), "phases": phases, "spent": so_far}, partial)

    batches = Batches(images, labels, args.batch, args.seed + len(phases))
    train(model, batches, held_out, epochs=args.epochs, rate=args.rate, decay=0.0, stop_after=args.stop_after,
          teacher=twin if args.teacher_epochs else None, fast=args.fast, log="binary", keep=keep)  # fmt: skip
    if 0 < args.stop_after < args.epochs:
        return 0
    partial.unlink(missing_ok=True)
    round_to_half(model)
    recalibrate(model, batches)

    test = load_split(args.data, "t10k")
    binary = sum(p.numel() for k, p in model.named_parameters() if p.dim() >= 2 and ".encoder." in k and k.endswith("weight"))
    facts: dict[str, Any] = {
        "dataset": "Fashion-MNIST", "seed": args.seed, "teacher_epochs": args.teacher_epochs, "phases": phases,
        "teacher_rate": args.teacher_rate, "batch": args.batch, "threads": args.threads, "fast": args.fast,
        "held_out_accuracy": accuracy(model, *held_out), "twin_held_out_accuracy": accuracy(twin, *held_out),
        "test_accuracy": accuracy(model, *test), "twin_test_accuracy": accuracy(twin, *test), "test_images": len(test[1]),
        "parameters": sum(p.numel() for p in model.parameters()), "binary_parameters": binary,
        "wall_seconds": time.time() - began + spent["wall"], "cpu_seconds": time.process_time() - cpu + spent["cpu"],
        "machine": platform.machine(), "torch": str(torch.__version__), "python": platform.python_version(),
        "command": "python " + shlex.join(sys.argv),
    }  # fmt: skip
    save(args.out, model, facts)
    args.out.with_suffix(".md").write_text(card(args.out))
    print(f"test: binary {facts['test_accuracy']:.2f} %, twin {facts['twin_test_accuracy']:.2f} %; wrote {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

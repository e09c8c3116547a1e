"""Make the shipped test data: the first 1 000 Fashion-MNIST test images as one .npz, and six of them as PNG files.

python examples/data/make_fashion_test.py [FOLDER OF THE idx.gz FILES]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from train_fashion import NAMES, read_idx


def main() -> None:
    source = Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist")
    here = Path(__file__).resolve().parent
    images = read_idx(source / "t10k-images-idx3-ubyte.gz")[:1000]
    labels = read_idx(source / "t10k-labels-idx1-ubyte.gz")[:1000].astype(np.int64)
    np.savez_compressed(here / "fashion_test.npz", images=images, labels=labels, names=np.array(NAMES))
    for index in range(6):
        name = NAMES[labels[index]].replace("/", " ").replace("-", "").replace(" ", "_")
        Image.fromarray(images[index]).save(here / f"fashion_{index:04d}_{name}.png")


if __name__ == "__main__":
    main()

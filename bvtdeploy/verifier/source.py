"""The source model beside an artifact: its logits, and what it has at every place of the compiled graph."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bvtdeploy.artifact.reader import Artifact
from bvtdeploy.errors import UserError
from bvtdeploy.ir.graph import Graph
from bvtdeploy.ir.text import print_graph
from bvtdeploy.verifier.forced import Source

F32 = npt.NDArray[np.float32]
BATCH: Final = 50


class TorchSide:
    """The source model in PyTorch, and the fp32 graph that it compiles to.

    Raises UserError when the artifact cannot be of this source.
    """

    def __init__(self, source: Any, artifact: Artifact, trust_pickle: bool, example_input: Any, output: str | int | None) -> None:
        from torch import nn

        from bvtdeploy.frontend import import_model

        if example_input is None and isinstance(source, nn.Module):
            example_input = (1, *(int(artifact.meta[f"input.{n}"]) for n in ("channels", "height", "width")))
        chosen = artifact.meta.get("source.output") if output is None else output
        output = chosen if isinstance(chosen, (str, int)) else None
        self.imported = import_model(source, example_input=example_input, trust_pickle=trust_pickle, output=output)
        self.warnings: list[str] = []
        if self.imported.source_sha256 != artifact.meta.get("source.sha256"):
            self.warnings.append("the artifact was compiled from another file than this source")
        self.known = Source(self.imported, str(artifact.meta.get("zeros", "exact")))
        ours, theirs = (artifact.output["rows"] * artifact.output["cols"], self.graph.outputs[0].type.size)
        shape = tuple(int(artifact.meta[f"input.{n}"]) for n in ("channels", "height", "width"))
        if ours != theirs or shape != tuple(self.known.input_shape):
            raise UserError(
                "the artifact and the source are different networks",
                where=artifact.path,
                why=f"input {shape} and {ours} outputs in the artifact, {tuple(self.known.input_shape)} and {theirs} in the source",
                fix="verify with the model that was compiled",
            )
        self.side = str(artifact.meta.get("side", "fp32"))
        self.patch_embed = str(artifact.meta.get("patch_embed", "fp32"))
        self.elementwise = str(artifact.meta.get("elementwise", "fp32"))
        digest = hashlib.sha256(print_graph(self.graph).encode()).hexdigest()
        self.same_graph = not self.rounded and digest == artifact.meta.get("graph.sha256")

    @property
    def rounded(self) -> str:
        """What of the artifact was rounded on purpose, in words; "" where nothing was."""
        said = (("parameters", self.side), ("a patch embedding", self.patch_embed), ("element-wise arithmetic", self.elementwise))
        return " and ".join(f"{what} in {how}" for what, how in said if how != "fp32")

    @property
    def graph(self) -> Graph:
        """What the source compiles to, with parameters in fp32."""
        return self.known.graph

    def logits(self, inputs: F32) -> F32:
        """Logits f32[n, classes] of inputs f32[n, C, H, W]: in batches where the module takes them."""
        import torch

        from bvtdeploy.frontend.lower import one_thread

        def of(x: F32) -> F32:
            return _logits(self.imported.module(torch.from_numpy(x)))

        with torch.no_grad(), one_thread():
            first = of(inputs[:1])
            try:
                if len(of(inputs[:2])) != len(inputs[:2]):
                    raise ValueError("not a batch")
                size = BATCH
            except Exception:  # noqa: BLE001  (whatever a foreign module raises: it takes one image at a time)
                size = 1
            assert first.ndim == 2
            return np.concatenate([of(inputs[i : i + size]) for i in range(0, len(inputs), size)])


def _logits(out: Any) -> F32:
    """The logits [n, classes] of whatever the module returned: a tensor, or an object or tuple that holds them."""
    if hasattr(out, "logits"):
        out = out.logits
    elif isinstance(out, dict) and "logits" in out:
        out = out["logits"]
    elif isinstance(out, (tuple, list)):
        out = out[0]
    array: F32 = out.numpy()
    return array

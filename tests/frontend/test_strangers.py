"""Models in strange but legal handwriting: import, compile, and the compiled graph against eager torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from strangers import SHAPE, STRANGERS  # noqa: E402
from styles import prepared  # noqa: E402
from torch import nn  # noqa: E402

from bvtdeploy.compiler import compile_graph  # noqa: E402
from bvtdeploy.frontend import import_model  # noqa: E402
from bvtdeploy.ir.interp import run  # noqa: E402


def made(name: str) -> nn.Module:
    torch.manual_seed(7)
    model = STRANGERS[name]()
    steps = [(p, p.detach().clone()) for n, p in model.named_parameters() if n.endswith("step")]
    prepared(model, seed=5)
    with torch.no_grad():
        for p, value in steps:
            p.copy_(value)
    return model


def logits(out: Any) -> Any:
    out = out["logits"] if isinstance(out, dict) else getattr(out, "logits", out)
    return (out[0] if isinstance(out, tuple) else out).detach().numpy()


@pytest.mark.parametrize("name", STRANGERS)
def test_compiles_to_the_same_function(name: str) -> None:
    model = made(name)
    imported = import_model(model, example_input=SHAPE)
    for what in ("import", "compile"):
        graph = imported.graph if what == "import" else compile_graph(imported).graph
        (image,) = graph.inputs
        for seed in range(3):
            x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                expected = logits(model(x))
            got = run(graph, {image.name: x.numpy().reshape(image.type.shape)})[0].reshape(expected.shape)
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(), err_msg=f"{what} {seed}")

"""Converting models for the peers, in a process of its own: `python -m bvtdeploy.bench.convert JOB`.

Converters print, start threads and take memory; none of that belongs into the process that measures. The job is a JSON object, the
result is the file `to`; a UserError becomes the last line of stdout, as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bvtdeploy.errors import UserError

INPUT, OUTPUT = "image", "logits"
FIELDS = ("channels", "height", "width", "patch", "tokens", "dim", "heads", "hidden", "depth", "classes")


def _plain(job: dict[str, Any]) -> tuple[Any, tuple[Any]]:
    """The network of the job's shape, and an image."""
    import torch

    from bvtdeploy.models.plain_vit import plain_vit

    shape = {name: int(job["shape"][name]) for name in FIELDS}
    return plain_vit(**shape), (torch.zeros(1, shape["channels"], shape["height"], shape["width"]),)


def _export_onnx(module: Any, example: tuple[Any], to: Path) -> None:
    import torch

    torch.onnx.export(
        module, example, to, dynamo=True, verbose=False, external_data=False, input_names=[INPUT], output_names=[OUTPUT]
    )


def source_onnx(job: dict[str, Any]) -> None:
    """The network of a source that `compile` takes, in fp32."""
    import torch

    from bvtdeploy.frontend import import_model

    known = import_model(
        Path(job["source"]), example_input=tuple(job["input_shape"]), trust_pickle=job["trust_pickle"], output=job["model_output"]
    )
    _export_onnx(known.module, (torch.zeros(job["input_shape"]),), Path(job["to"]))


def plain_onnx(job: dict[str, Any]) -> None:
    """The plain network of a shape for ONNX Runtime."""
    _export_onnx(*_plain(job), Path(job["to"]))


def plain_onnx_int8(job: dict[str, Any]) -> None:
    """The same with signed int8 weights, a scale a channel, and activations quantised as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(job["from"])
    # The exporter also notes the shapes of weights; a weight that the quantiser transposes would contradict its own.
    weights = {weight.name for weight in model.graph.initializer}
    kept = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = str(Path(folder) / "plain.onnx"), str(Path(folder) / "prepared.onnx")
        onnx.save(model, plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_dynamic(
            prepared,
            job["to"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm", "Attention"],
        )


def plain_litert(job: dict[str, Any]) -> None:
    """The plain network of a shape for LiteRT."""
    import litert_torch

    litert_torch.convert(*_plain(job)).export(job["to"])


def plain_litert_int8(job: dict[str, Any]) -> None:
    """The same with int8 weights and activations quantised as they come."""
    from ai_edge_quantizer import quantizer, recipe

    done = quantizer.Quantizer(job["from"], recipe.dynamic_wi8_afp32()).quantize()
    done.export_model(job["to"], overwrite=True)


def plain_executorch(job: dict[str, Any]) -> None:
    """The plain network of a shape for ExecuTorch with XNNPACK."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    module, example = _plain(job)
    program = to_edge_transform_and_lower(torch.export.export(module, example, strict=True), partitioner=[XnnpackPartitioner()])
    Path(job["to"]).write_bytes(program.to_executorch().buffer)


def plain_executorch_int8(job: dict[str, Any]) -> None:
    """The same with int8 weights and activations quantised as they come."""
    import torch
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    module, example = _plain(job)
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True))
    prepared = prepare_pt2e(torch.export.export(module, example, strict=True).module(), quantizer)
    prepared(*example)
    exported = torch.export.export(convert_pt2e(prepared), example, strict=True)
    dynamic = XnnpackPartitioner(config_precisions=ConfigPrecisionType.DYNAMIC_QUANT, per_op_mode=True)
    program = to_edge_transform_and_lower(exported, partitioner=[dynamic, XnnpackPartitioner()])
    Path(job["to"]).write_bytes(program.to_executorch().buffer)


JOBS: dict[str, Callable[[dict[str, Any]], None]] = {
    function.__name__: function
    for function in (
        source_onnx, plain_onnx, plain_onnx_int8, plain_litert, plain_litert_int8, plain_executorch, plain_executorch_int8,
    )
}  # fmt: skip


def main() -> int:
    """Do the job of the command line."""
    job = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    try:
        JOBS[job["kind"]](job)
    except UserError as error:
        sys.stdout.write("\n" + json.dumps({"error": error.as_dict()}) + "\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

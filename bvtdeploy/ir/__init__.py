"""The graph IR: types, graph, text form, verifier, interpreter."""

from bvtdeploy.ir.graph import Graph, Op, Value, producers, single_use
from bvtdeploy.ir.types import BIPOLAR, UNIPOLAR, Type, bits, f32, i32

__all__ = ["BIPOLAR", "UNIPOLAR", "Graph", "Op", "Type", "Value", "bits", "f32", "i32", "producers", "single_use"]

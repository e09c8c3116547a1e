"""What the bytes of an artifact are: every byte of the file under one kind of ops/kinds.py."""

from __future__ import annotations

from bvtdeploy.artifact import spec
from bvtdeploy.artifact.reader import Artifact, Record
from bvtdeploy.ops.attention import ROLES as ATTENTION_ROLES
from bvtdeploy.ops.epilogue import ROLES as EPILOGUE_ROLES
from bvtdeploy.ops.kinds import KINDS, operand_kind

_CONST = spec.STORAGES["CONST"]
_PRODUCTS = tuple(spec.OPCODES[kind] for kind in ("dense", "dense_i8", "bgemm", "mixed_gemm"))


def storage(artifact: Artifact) -> dict[str, int]:
    """Bytes by kind; they add up to the size of the file. A constant that several ops share counts where it is read first."""
    kinds = {number: kind for kind, number in spec.OPCODES.items()}
    names = {"attention": ATTENTION_ROLES, "epilogue": EPILOGUE_ROLES}
    first, last = _ends(artifact)
    found = dict.fromkeys(KINDS, 0)
    seen: set[int] = set()
    for number, op in enumerate(artifact.ops):
        kind = kinds[op["opcode"]]
        for i, value in enumerate(op["inputs"]):
            if value == spec.NONE or value in seen or artifact.values[value]["storage"] != _CONST:
                continue
            seen.add(value)
            read_as = operand_kind(kind, names[kind][i] if kind in names else str(i))
            if read_as == "other_weights":
                read_as = "patch_embedding" if number in first else "classifier" if number in last else read_as
            found[read_as] += artifact.values[value]["bytes"]
    sizes = {name: section["bytes"] for name, section in artifact.sections.items()}
    found["golden"] = sizes.get("GOLDEN", 0)
    tables = spec.STRUCTS["header"][1] + spec.STRUCTS["section"][1] * len(sizes)
    found["records"] = tables + sum(n for name, n in sizes.items() if name not in ("CONSTANTS", "GOLDEN"))
    found["alignment"] = artifact.header["file_bytes"] - sum(found.values())
    return found


def _ends(artifact: Artifact) -> tuple[set[int], set[int]]:
    """(products that read the image, products that the output is read from), with no other product in between."""

    def values(op: Record, side: str) -> list[int]:
        return [i for i in op[side] if i != spec.NONE]

    from_image = {i for i, v in enumerate(artifact.values) if v["storage"] == spec.STORAGES["INPUT"]}
    to_output = {i for i, v in enumerate(artifact.values) if v["storage"] == spec.STORAGES["OUTPUT"]}
    first, last = set[int](), set[int]()
    for number, op in enumerate(artifact.ops):
        if from_image.intersection(values(op, "inputs")):
            first.update([number] if op["opcode"] in _PRODUCTS else [])
            from_image.update([] if op["opcode"] in _PRODUCTS else values(op, "outputs"))
    for number, op in reversed(list(enumerate(artifact.ops))):
        if to_output.intersection(values(op, "outputs")):
            last.update([number] if op["opcode"] in _PRODUCTS else [])
            to_output.update([] if op["opcode"] in _PRODUCTS else values(op, "inputs"))
    return first, last


__all__ = ["storage"]

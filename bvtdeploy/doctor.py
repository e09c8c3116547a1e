"""What bvtdeploy finds on this machine, and how to get what is missing, one line each."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from bvtdeploy.boards import load_board
from bvtdeploy.build.engines import BASE, GET_DOCKER, engine_version, find_engine
from bvtdeploy.build.files import cache_folder
from bvtdeploy.build.sources import runtime_folder, sources_hash
from bvtdeploy.build.toolchains import GET_CC, GET_GCC, GET_GCC_ARM, GET_ZIG, find_toolchain, has_zig
from bvtdeploy.device.local import GET_QEMU, find_qemu, qemu_cpus
from bvtdeploy.errors import UserError


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        name: what.
        present: whether it is there and works.
        needed: whether bvtdeploy is of no use without it.
        found: version or place.
        purpose: what it is for.
        fix: how to get it; "" where it is there.
    """

    name: str
    present: bool
    needed: bool
    found: str
    purpose: str
    fix: str


@dataclass(frozen=True)
class Diagnosis:
    """All findings."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether everything that is needed is there."""
        return all(finding.present for finding in self.findings if finding.needed)

    def as_dict(self) -> dict[str, Any]:
        """The findings as JSON."""
        return {"findings": [vars(finding) for finding in self.findings]}


def diagnose() -> Diagnosis:
    """Look for everything."""
    findings = [
        _finding("Python", "runs bvtdeploy", "", platform.python_version, needed=True),
        _finding("torch", "reads and runs source models", "pip install torch==2.13.0", _torch, needed=True),
        _finding("NumPy", "reference interpreter", "pip install numpy", lambda: metadata.version("numpy"), needed=True),
        _finding(
            "Pillow",
            "preprocessing reference, more image formats",
            "pip install pillow",
            lambda: metadata.version("pillow"),
            needed=True,
        ),
        _finding(
            "host runtime",
            "runs artifacts in this process",
            "pip install . (needs " + GET_CC + " python3-dev)",
            _extension,
            needed=True,
        ),
        _finding(
            "C compiler",
            "builds the runtime for this machine (--device local)",
            GET_CC,
            lambda: _compiler("host", "auto"),
            needed=False,
        ),
        _finding(
            "cross GCC", "builds the runtime for 64-bit ARM boards", GET_GCC, lambda: _compiler("generic", "gcc"), needed=False
        ),
        _finding(
            "32-bit cross GCC",
            "builds the runtime for 32-bit ARM boards",
            GET_GCC_ARM,
            lambda: _compiler("generic-32", "gcc"),
            needed=False,
        ),
        _finding("zig", "the same without apt", GET_ZIG, _zig, needed=False),
        _finding("container engine", "builds in a container (--toolchain docker)", GET_DOCKER, _container, needed=False),
        _finding("QEMU", "emulated boards (--device qemu:cortex-a72)", GET_QEMU, lambda: _qemu("aarch64"), needed=False),
        _finding("32-bit QEMU", "emulated 32-bit boards (--device qemu:cortex-a7)", GET_QEMU, lambda: _qemu("arm"), needed=False),
        _finding(
            "cache folder", "keeps built runtimes", "set BVTDEPLOY_CACHE to a folder that can be written", _cache, needed=True
        ),
    ]
    return Diagnosis(tuple(findings))


class _MissingError(Exception):
    """Says why a thing cannot be used."""


def _finding(name: str, purpose: str, fix: str, look: Callable[[], str], *, needed: bool) -> Finding:
    try:
        return Finding(name, True, needed, look(), purpose, "")
    except metadata.PackageNotFoundError:
        return Finding(name, False, needed, "not installed", purpose, fix)
    except UserError as error:  # it knows best what would help
        return Finding(name, False, needed, error.what, purpose, error.fix or fix)
    except (_MissingError, OSError) as error:
        return Finding(name, False, needed, str(error).split("\n")[0], purpose, fix)


def _torch() -> str:
    if importlib.util.find_spec("torch") is None:
        raise _MissingError("not installed")
    found = metadata.version("torch")
    if found.split("+")[0] != "2.13.0":
        raise _MissingError(f"{found}: its export format may differ from 2.13.0's, which we test with")
    return found


def _extension() -> str:
    from bvtdeploy import host

    version, file_format, built_from = host.runtime_version()
    if built_from != sources_hash(runtime_folder()):
        raise _MissingError("the C sources have changed since it was built")
    return f"{version}, format {file_format}, kernels: {' '.join(host.isas())}, CPU: {' '.join(host.cpu_features())}"


def _compiler(board: str, wish: str) -> str:
    return find_toolchain(load_board(board), wish).version


def _zig() -> str:
    if not has_zig():
        raise _MissingError("not installed")
    return f"ziglang {metadata.version('ziglang')}"


def _container() -> str:
    engine = find_engine()
    base = os.environ.get(BASE)
    return f"{engine.name} {engine_version(engine)}" + (f", base image {base}" if base else "")


def _qemu(machine: str) -> str:
    path = find_qemu(machine)
    if not path:
        raise _MissingError("not installed")
    return f"{path}: {' '.join(cpu for cpu in qemu_cpus(path) if machine != 'arm' or cpu.startswith('cortex-a'))}"


def _cache() -> str:
    folder = cache_folder()
    near = next(p for p in (folder, *folder.parents) if p.exists())
    if not os.access(near, os.W_OK):
        raise _MissingError(f"{folder} cannot be written")
    return str(folder)

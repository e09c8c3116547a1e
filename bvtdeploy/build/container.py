"""Building the runtime in a container: the image of docker/Dockerfile is made once, and GCC in it runs the very commands that would
run here (compile.py), so the same compiler makes the same bytes.

Sources go in as an archive on standard input and the results come out as one on standard output. Nothing is mounted: it also works
with a daemon on another machine, and no file of another user is left here.
"""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bvtdeploy.boards import Board
from bvtdeploy.build.bundle import shipped
from bvtdeploy.build.compile import commands, does_not_compile
from bvtdeploy.build.engines import BASE, Engine, find_engine
from bvtdeploy.build.files import write_whole
from bvtdeploy.build.sources import Source
from bvtdeploy.build.toolchains import Toolchain, check_linking
from bvtdeploy.errors import UserError

_STAGE = "toolchain"  # of docker/Dockerfile
# Everything but the results goes to standard error.
_UNPACK = 'set -e; exec 3>&1 1>&2; w=$(mktemp -d); cd "$w"; tar -xf -; sh build.sh; cd out; exec tar -cf - . >&3'


@dataclass(frozen=True)
class Container:
    """A build that will happen in a container.

    Attributes:
        compiler: GCC in the image; its version is only known after the build.
        image: the image's tag, a hash of the Dockerfile and of the base image's name.
        dockerfile: the file.
        base: the base image that $BVTDEPLOY_DOCKER_BASE names, or "" for the Dockerfile's.
    """

    compiler: Toolchain
    image: str
    dockerfile: Path
    base: str = field(default="")

    @cached_property
    def engine(self) -> Engine:
        """The engine, found when it is needed: a cached build needs none."""
        return find_engine()

    def as_dict(self) -> dict[str, str]:
        """Engine and image as JSON."""
        return {"engine": self.engine.name, "image": self.image, "base": self.base}

    def prepare(self, say: Callable[[str], None]) -> None:
        """Make the image unless it is there."""
        if not self.engine.has_image(self.image):
            say(f"building the image {self.image} with {self.engine.name}: a minute or so, once")
            self.engine.make_image(self.image, self.dockerfile, base=self.base, target=_STAGE)

    def compile(self, root: Path, sources: list[Source], *, library: Path, program: Path) -> str:
        """Compile the sources of a folder.

        Args:
            root: the runtime's folder.
            sources: what sources.txt lists.
            library, program: files to write.

        Returns:
            The compiler's version.

        Raises:
            UserError: the compiler refuses the sources, or the container did not run.
        """
        todo = commands("$PWD", sources, self.compiler, objects="../objects", library="../out/libbvt.a", program="../out/bvt_run")
        lines = [_quoted(command) for command in todo.compile]
        script = (
            "set -e\ncd src\nmkdir ../objects ../out\n"
            f"{shlex.join(self.compiler.cc)} --version | sed -n 1p >../out/version\n"
            "xargs -P \"$(nproc)\" -d '\\n' -n 1 sh -c <../compile.txt\n"
            f"{_quoted(todo.archive)}\n{_quoted(todo.link)}\n"
        )
        given = _archive(root, {"compile.txt": "\n".join(lines) + "\n", "build.sh": script})
        done = self.engine.run(self.image, _UNPACK, given)
        told = done.stderr.decode(errors="replace")
        where = f"{self.engine.name} run {self.image}"
        if done.returncode:
            if "error:" in told or "ld returned" in told:
                raise does_not_compile(where, told, done.returncode, self.compiler)
            raise UserError(
                "the build in the container failed",
                where=where,
                why="\n       ".join(told.strip().splitlines()[-6:]) or f"it ended with code {done.returncode}",
                fix=f"remove the image, so that it is made anew: {self.engine.name} rmi {self.image}",
            )
        found = _members(done.stdout, where)
        try:
            write_whole(library, found["libbvt.a"])
            write_whole(program, found["bvt_run"], mode=0o755)
            return found["version"].decode().strip()
        except KeyError as error:
            raise UserError("the container gave an incomplete answer", where=where, why=f"{error} is missing") from error


def find_container(board: Board, *, dynamic: bool = False, glibc: str = "") -> Container:
    """The container build of a board's runtime. No engine is asked yet.

    Args:
        board: the target.
        dynamic, glibc: as of `find_toolchain`.
    """
    check_linking(dynamic=dynamic, glibc=glibc)
    prefix = "" if board.native else f"{board.triple}-"
    compiler = Toolchain(
        kind="gcc",
        cc=(f"{prefix}gcc",),
        ar=(f"{prefix}ar",),
        version="",
        machine=board.machine,
        flags=board.flags,
        static=not dynamic,  # for this machine, too: its C library need not be the image's
        glibc=(glibc or board.glibc) if dynamic else "",
    )
    dockerfile = shipped("docker/Dockerfile")
    base = os.environ.get(BASE, "")
    tag = hashlib.sha256(dockerfile.read_bytes() + b"\0" + base.encode()).hexdigest()[:12]
    return Container(compiler, f"bvtdeploy-toolchain:{tag}", dockerfile, base)


def _quoted(command: tuple[str, ...]) -> str:
    """A command for the shell. The folder of the sources is only known there: `$PWD` in the prefix map stays open."""
    return " ".join(f'"{part}"' if part.startswith("-ffile-prefix-map=") else shlex.quote(part) for part in command)


def _archive(root: Path, texts: dict[str, str]) -> bytes:
    """The sources under src/ and some texts beside them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for folder in ("include", "src", "third_party", "tools"):
            for path in sorted((root / folder).rglob("*")):
                if path.suffix in (".c", ".h", ".inc"):
                    _add(tar, f"src/{path.relative_to(root).as_posix()}", path.read_bytes())
        for name, text in texts.items():
            _add(tar, name, text.encode())
    return packed.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def _members(packed: bytes, where: str) -> dict[str, bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            files = ((entry.name.removeprefix("./"), tar.extractfile(entry)) for entry in tar if entry.isfile())
            return {name: file.read() for name, file in files if file is not None}
    except tarfile.TarError as error:
        raise UserError("the container gave an answer that cannot be read", where=where, why=str(error)) from error

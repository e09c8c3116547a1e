#!/usr/bin/env python3
"""Classifies images on a board that has Python and nothing else: files, folders, and with --watch what a camera puts into a folder.

    python3 classify.py MODEL.bvt PATH... [--watch] [--raw 640x480:rgb] ...

It needs the program bvt_run of a bundle (`bvtdeploy build --board rpi4 --output rpi4`), beside this file, on the PATH, or named
by --bvt-run; no package, not even Pillow, because bvt_run decodes and prepares the images. Every image starts it anew: that
costs some milliseconds (a process, and mapping a model that is in the page cache). Where it matters, classify.c keeps one
process and one session.

A line an image: its path, the classes with their probabilities, and the time of the whole call, all separated by tabs. An image
that cannot be read is a line on stderr. Exit status: 0 all was classified; 1 something could not be read; 2 wrong use, or the
model or the folder cannot be used. Python 3.9 or newer.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm", ".pnm")


class Stop(Exception):
    """It cannot go on; the text is for the user."""


def printable(text: str) -> str:
    """A name of a file in one line, without control characters."""
    return "".join("?" if ord(c) < 32 or ord(c) == 127 else c for c in text).encode("utf-8", "replace").decode()


def jpeg_is_whole(data: bytes) -> bool:
    """Whether a JPEG file has its end marker; a decoder fills what is missing with grey, which would be classified."""
    at = 2
    while at + 2 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF:  # coded data: on to the next marker
            at = data.find(b"\xff", at)
            if at < 0:
                return False
        elif marker == 0xD9:
            return True
        elif marker == 0xFF:
            at += 1
        elif marker in (0, 1) or 0xD0 <= marker <= 0xD8:
            at += 2
        else:  # over the segment, thumbnails among them
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


class Classifier:
    """One model and the program that runs it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.model: str = options.model
        self.top: int = options.top
        self.raw: tuple[int, int, int] | None = options.raw
        self.program = options.bvt_run or self._find()
        self.common = ["--json", "--top", "1000000", "--threads", str(options.threads)]
        self.common += ["--cpus", options.cpus] if options.cpus else []
        if options.time_model:
            self.common += ["--runs", "1"]
        self._call(["--info"])  # a model that cannot be used is found before the first image

    @staticmethod
    def _find() -> str:
        beside = Path(__file__).resolve().parent / "bvt_run"
        found = str(beside) if beside.is_file() else shutil.which("bvt_run")
        if not found:
            raise Stop("there is no bvt_run beside this file or on the PATH: copy it from a bundle, or name it with --bvt-run")
        return found

    def _call(self, arguments: list[str]) -> dict[str, object]:
        try:
            command = [self.program, self.model, *self.common, *arguments]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        except OSError as error:
            raise Stop(f"{self.program}: {error.strerror}") from error
        if done.returncode:
            told = done.stderr.decode("utf-8", "replace").strip()
            raise Stop(told.split("bvt_run: ", 1)[-1] or f"{self.program}: exit status {done.returncode}")
        answer: dict[str, object] = json.loads(done.stdout.decode("utf-8", "replace"))
        return answer

    def __call__(self, path: Path) -> str:
        """The line for an image. ValueError: why it cannot be read."""
        start = time.monotonic()
        if not path.is_file():
            if path.is_dir():
                raise ValueError("it is a folder")
            raise ValueError("not a regular file" if path.exists() else "No such file or directory")
        data = path.read_bytes()
        if not data:
            raise ValueError("the file is empty")
        if self.raw is None:
            if data[:2] == b"\xff\xd8" and not jpeg_is_whole(data):
                raise ValueError("the JPEG file is cut short: it has no end marker")
            answer = self._image(path)
        else:
            width, height, channels = self.raw
            if len(data) != width * height * channels:
                raise ValueError("its size is not that of a frame")
            with tempfile.NamedTemporaryFile(suffix=".pnm") as file:  # a raw frame with a head is a PNM image
                file.write(b"P%d %d %d 255\n" % (6 if channels == 3 else 5, width, height) + data)
                file.flush()
                answer = self._image(Path(file.name))
        total = (time.monotonic() - start) * 1e3
        fields = [printable(str(path)), *self._classes(answer), f"total {total:.1f} ms"]
        samples = answer["samples_ns"]
        if isinstance(samples, list) and samples:
            fields.append(f"model {samples[0] / 1e6:.2f} ms")
        return "\t".join(fields)

    def _image(self, path: Path) -> dict[str, object]:
        name = str(path)
        try:
            return self._call(["./" + name if name.startswith("-") else name])
        except Stop as error:
            text = str(error)
            raise ValueError(text.split(": ", 1)[-1] if name in text else text) from error

    def _classes(self, answer: dict[str, object]) -> Iterator[str]:
        predictions = answer["predictions"]
        assert isinstance(predictions, list)
        top = predictions[0]["top"]  # all classes, for the sum of the softmax
        weights = [math.exp(float(entry["logit"]) - float(top[0]["logit"])) for entry in top]
        for entry, weight in list(zip(top, weights))[: self.top]:  # noqa: B905 (Python 3.9)
            label = entry["label"] or f"class {entry['index']}"
            yield f"{label} {100 * weight / sum(weights):.1f} %"


State = tuple[int, int, int]


class Folder:
    """What is in a folder. A file is complete when size and time have stayed the same from one look to the next."""

    def __init__(self, path: Path, raw: bool) -> None:
        self.path, self.raw = path, raw
        self.known: dict[str, State] = {}
        self.done: dict[str, State] = {}

    def _is_image(self, name: str) -> bool:
        if name.startswith("."):
            return False
        ending = Path(name).suffix.lower()
        return ending not in (".tmp", ".part") if self.raw else ending in ENDINGS

    def look(self) -> list[str]:
        """The names of files that are complete and were not classified as they are now."""
        before, self.known = self.known, {}
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    if self._is_image(entry.name):
                        try:
                            st = (self.path / entry.name).stat()
                        except OSError:  # gone again
                            continue
                        self.known[entry.name] = (st.st_ino, st.st_size, st.st_mtime_ns)
        except OSError as error:
            raise Stop(f"{self.path}: {error.strerror}") from error
        self.done = {name: state for name, state in self.done.items() if name in self.known}
        return sorted(
            name
            for name, state in self.known.items()
            if state[1] > 0 and before.get(name) == state and self.done.get(name) != state
        )


def parse_raw(text: str) -> tuple[int, int, int]:
    """640x480:rgb -> (640, 480, 3)"""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4}):(rgb|gray)", text)
    if not match:
        raise argparse.ArgumentTypeError("a size and a kind, such as 640x480:rgb or 640x480:gray")
    return int(match[1]), int(match[2]), 3 if match[3] == "rgb" else 1


def images(options: argparse.Namespace) -> Iterator[Path]:
    """The images to classify, in order; endless while watching."""
    if options.watch:
        folder = Folder(Path(options.paths[0]), options.raw is not None)
        folder.look()
        if options.new:
            folder.done = dict(folder.known)
        while True:
            time.sleep(options.poll / 1000)
            for name in folder.look():
                folder.done[name] = folder.known[name]
                yield folder.path / name
    for path in map(Path, options.paths):
        if not path.is_dir():
            yield path
            continue
        folder = Folder(path, options.raw is not None)
        folder.look()
        if not folder.known:
            yield path  # a line that says so
        yield from (path / name for name in sorted(folder.known))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Classify images.")
    parser.add_argument("model", help="a .bvt file")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="an image (JPEG, PNG, BMP, PNM), or a folder of them")
    parser.add_argument("--watch", action="store_true", help="go on: classify what comes into the folder, or changes there")
    parser.add_argument("--new", action="store_true", help="with --watch: leave out what is there already")
    parser.add_argument("--poll", type=int, default=200, metavar="MS", help="with --watch: how often to look (default 200)")
    parser.add_argument("--count", type=int, default=0, metavar="N", help="end after N images")
    parser.add_argument("--raw", type=parse_raw, metavar="WxH:rgb", help="files are raw frames; or WxH:gray")
    parser.add_argument("--top", type=int, default=3, metavar="K", help="classes to print (default 3)")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--cpus", metavar="CORES", help="a list such as 0-3,6, or 'fast'")
    parser.add_argument("--bvt-run", metavar="PROGRAM", help="the program bvt_run")
    parser.add_argument("--time-model", action="store_true", help="print how long the model alone takes; it then runs twice")
    options = parser.parse_args()
    if options.poll < 10 or options.top < 1 or options.threads < 1 or options.count < 0:
        parser.error("--poll needs 10 or more, --top and --threads 1 or more, --count 0 or more")
    if options.watch and (len(options.paths) != 1 or not Path(options.paths[0]).is_dir()):
        parser.error("--watch needs one folder")
    if options.new and not options.watch:
        parser.error("--new is for --watch")
    return options


def main() -> int:
    """The exit status."""
    options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    done = failed = 0
    try:
        classify = Classifier(options)
        for path in images(options):
            try:
                print(classify(path), flush=True)
                done += 1
            except BrokenPipeError:  # who read our lines has gone
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 1
            except (ValueError, OSError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                if path.is_dir() and not options.watch and str(path) in options.paths:
                    why = "there is no image in this folder"
                print(f"classify: {printable(str(path))}: {why}", file=sys.stderr, flush=True)
                failed += 1
            if options.count and done >= options.count:
                break
    except Stop as error:
        print(f"classify: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

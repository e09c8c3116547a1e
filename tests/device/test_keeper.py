"""The keeper's script, run by this machine's shell on folders of a test: what it does to what others have put there."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bvtdeploy.device.ssh import scripts

OTHER = 1234  # a user that is not us


class Place:
    """Folders that stand for a board's."""

    def __init__(self, root: Path) -> None:
        self.root, self.locks, self.home = root, root / "locks", root / "home"
        self.lock, self.base = self.locks / "bvtdeploy.lock", self.home / ".cache/bvtdeploy"
        for folder in (root, self.locks, self.home):
            folder.mkdir(exist_ok=True)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, token: str = "aa", folder: str = "", *, hidden: bool = False) -> subprocess.Popen[str]:
        assert f"for l in {scripts.LOCKS};" in scripts.KEEPER
        script = scripts.KEEPER.replace(f"for l in {scripts.LOCKS};", f"for l in {self.root}/none {self.locks};")
        for there in ("/var/tmp", "/tmp", "/dev/shm"):
            assert f'"{there}/$u"' in script
            script = script.replace(f'"{there}/$u"', f'"{self.root}{there}/$u"')
        if hidden:
            assert "$(born 1)" in script
            script = script.replace("$(born 1)", "")
        process = subprocess.Popen(
            ["sh", "-c", script, "bvtdeploy", f"bvtdeploy-{token}", token, "me", folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"], "HOME": str(self.home)},
        )  # fmt: skip
        self.started.append(process)
        return process

    def answer(self, process: subprocess.Popen[str]) -> str:
        """What it says last before it waits or ends."""
        assert process.stdout is not None
        said = [""]
        while line := process.stdout.readline():
            said.append(line.strip())
            if line.startswith(("ready", "busy")):
                break
        return said[-1]

    def end(self, process: subprocess.Popen[str]) -> str:
        return process.communicate(timeout=20)[0]

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.name not in ("locks", "home"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "board")
    yield place
    for process in place.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def me() -> str:
    """PID.BORN of a process of ours that is no keeper: this one."""
    return f"{os.getpid()}.{born(os.getpid())}"


def born(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]


def claim(place: Place, name: str, token: str = "bb", *, old: bool = True, owner: int | None = None) -> Path:
    place.lock.mkdir(exist_ok=True)
    place.lock.chmod(0o1777)
    file = place.lock / name
    file.write_text(f"{token}\nsomebody\n")
    if old:
        os.utime(file, (time.time() - 600,) * 2)
    if owner is not None:
        if os.getuid() != 0:
            pytest.skip("only root can make files of others")
        os.chown(file, owner, owner)
    return file


def test_a_session_and_its_end(place: Place) -> None:
    process = place.start()
    answer = place.answer(process)
    assert answer == f"ready {place.base}/run-{process.pid}.{born(process.pid)}"
    assert stat.S_IMODE(place.lock.stat().st_mode) == 0o1777
    second = place.start("cc")
    assert place.answer(second) == "busy me"
    assert second.wait(20) == 75
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout is not None
    assert process.stdout.readline() == "beat\n"
    assert place.end(process) == "gone\n"
    assert place.left() == []


@pytest.mark.parametrize("name", ["-1.", "x.", ".", "1", "1.2.3", "0x1.1", "-1.1", "1.", ".1"])
def test_files_that_are_nobodys_claim(place: Place, name: str) -> None:
    """Neither a process is ended for them, nor do they hold the lock."""
    file = claim(place, name) if name != "." else place.lock
    process = place.start()
    assert place.answer(process).startswith("ready ")
    place.end(process)
    assert name == "." or file.exists()


@pytest.mark.parametrize("owner", [None, OTHER])
def test_only_a_keeper_is_ended(place: Place, owner: int | None) -> None:
    """An old claim in the name of any other process of ours, made by us or by another user."""
    victim = subprocess.Popen(["sleep", "60"])
    try:
        claim(place, f"{victim.pid}.{born(victim.pid)}", owner=owner)
        process = place.start()
        assert place.answer(process).startswith("ready ")
        place.end(process)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_an_old_keeper_is_ended(place: Place) -> None:
    first = place.start("bb")
    assert place.answer(first).startswith("ready ")
    (file,) = place.lock.iterdir()
    os.utime(file, (time.time() - 600,) * 2)
    second = place.start("cc")
    assert place.answer(second).startswith("ready ")
    first.wait(20)
    again = place.start("cc")  # the same session over a new connection
    assert place.answer(again).startswith("ready ")
    second.wait(20)
    place.end(again)
    assert place.left() == []


def test_a_folder_that_is_a_link_is_not_swept(place: Place) -> None:
    data = place.root.parent / "data"
    (data / "run-1").mkdir(parents=True)
    (data / "run-99999999.1").mkdir()
    link = place.root / f"tmp/bvtdeploy-{os.getuid()}"
    link.parent.mkdir()
    link.symlink_to(data)
    dead = place.base / "run-99999999.1"
    named = place.base / "run-experiments"
    dead.mkdir(parents=True)
    named.mkdir()
    (place.base / "run-99999999.2").symlink_to(data)
    process = place.start()
    assert place.answer(process).startswith("ready ")
    assert sorted(path.name for path in data.iterdir()) == ["run-1", "run-99999999.1"]
    assert not dead.exists()
    assert named.exists()
    place.end(process)


def test_somebody_elses_folder_is_not_swept(place: Place) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make folders of others")
    victim = subprocess.Popen(["sleep", "60"])
    try:
        folder = place.root / f"tmp/bvtdeploy-{os.getuid()}" / "run-99999999.1"
        folder.mkdir(parents=True)
        (folder / f".program.{victim.pid}.{born(victim.pid)}").touch()
        (folder / ".program.-1.").touch()
        for path in (folder.parent, folder, *folder.iterdir()):
            os.chown(path, OTHER, OTHER)
        process = place.start()
        assert place.answer(process).startswith("ready ")
        place.end(process)
        assert victim.poll() is None
        assert folder.exists()
    finally:
        victim.kill()
        victim.wait()


def test_a_beat_writes_through_no_link(place: Place) -> None:
    precious = place.root.parent / "precious"
    precious.write_text("precious")
    process = place.start()
    assert place.answer(process).startswith("ready ")
    (file,) = place.lock.iterdir()
    for path in (file, place.lock / f".{file.name}"):
        path.unlink(missing_ok=True)
        path.symlink_to(precious)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout is not None
    assert process.stdout.readline() == "beat\n"
    assert precious.read_text() == "precious"
    assert file.is_file()
    assert not file.is_symlink()
    place.end(process)
    assert place.left() == []


def test_without_a_folder_for_all_the_lock_is_in_our_own(place: Place) -> None:
    place.locks.rmdir()
    first = place.start()
    assert place.answer(first).startswith("ready ")
    assert (place.base / "bvtdeploy.lock").is_dir()
    second = place.start("cc")
    assert place.answer(second) == "busy me"
    second.wait(20)
    place.end(first)
    assert place.left() == []


def test_handing_over_under_load(place: Place) -> None:
    """Sessions that end while others begin: no false error, and never two holders."""
    holding = threading.Lock()
    wrong: list[str] = []
    got: list[str] = []
    until = time.monotonic() + 4

    def work(token: str) -> None:
        while time.monotonic() < until and not wrong:
            process = place.start(token)
            answer = place.answer(process)
            if answer.startswith("ready "):
                if holding.acquire(blocking=False):
                    got.append(answer)
                    if not Path(answer[6:]).is_dir():
                        wrong.append(f"{answer}: not there")
                    holding.release()
                else:
                    wrong.append("two holders")
                if "gone" not in place.end(process):
                    wrong.append("not gone")
            elif not answer.startswith("busy "):
                wrong.append(f"{answer!r}, {process.wait(20)}")
            process.communicate()

    workers = [threading.Thread(target=work, args=(f"{n:02x}",)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert wrong == []
    assert len(got) > 3
    assert place.left() == []


@pytest.mark.parametrize(
    ("hidden", "old", "answer"), [(True, False, "busy somebody"), (True, True, "ready "), (False, False, "ready ")]
)
def test_a_session_of_another_user_that_cannot_be_seen(place: Place, hidden: bool, old: bool, answer: str) -> None:
    """With hidepid a process of another user looks as one that has ended: its young file is believed."""
    claim(place, "99999999.1", old=old, owner=OTHER)
    process = place.start(hidden=hidden)
    assert place.answer(process).startswith(answer)
    place.end(process)


def test_what_another_user_says_is_cut(place: Place) -> None:
    claim(place, me(), old=False, owner=OTHER).write_text("bb\n" + "x" * 100_000)
    process = place.start()
    assert place.answer(process) == "busy " + "x" * 397
    place.end(process)

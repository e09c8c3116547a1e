from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import rich_click
from commands import call, call_json

import bvtdeploy
from bvtdeploy import __version__, api, cli
from bvtdeploy.cli.options import counts
from bvtdeploy.errors import UserError
from bvtdeploy.host import read_image
from bvtdeploy.schemas import names, schema


def test_every_schema_is_a_schema_and_every_command_has_one() -> None:
    for name in names():
        jsonschema.Draft202012Validator.check_schema(schema(name))
    assert set(names()) == {*cli.cli.commands, "error"}


def test_every_command_takes_json_and_has_help() -> None:
    for name, command in cli.cli.commands.items():
        assert "--json" in [option for parameter in command.params for option in parameter.opts], name
        code, out, _ = call(name, "--help")
        assert code == 0
        assert command.help
        assert command.help.split("\n")[0][:40] in " ".join(out.split())


def test_python_has_every_function_and_a_count_is_timed_once() -> None:
    ours = {n for n, f in vars(api).items() if inspect.isfunction(f) and f.__module__ == api.__name__ and not n.startswith("_")}
    assert set(bvtdeploy.__all__) == {"__version__", *ours}
    assert all(getattr(bvtdeploy, name) is getattr(api, name) for name in ours)
    option = next(p for p in cli.cli.commands["profile"].params if p.name == "threads")
    assert counts(rich_click.Context(cli.cli), option, "2, 1,2") == (2, 1)


# -- results ---------------------------------------------------------------------------------------------------------------


def test_compile(checkpoint: Path, tmp_path: Path) -> None:
    told = call_json("compile", checkpoint, "-o", tmp_path / "m.bvt", "--board", "rpi4", "--dump-ir", tmp_path / "ir")
    assert (tmp_path / "m.bvt").stat().st_size == told["bytes"] < told["source"]["bytes"] / 4
    assert told["board"] == "rpi4"
    assert told["layers"]["binary"] > 0
    assert len(list((tmp_path / "ir").glob("*.txt"))) >= len(told["passes"])
    code, out, _ = call("compile", checkpoint, "-o", tmp_path / "again.bvt", "--board", "rpi4", "--explain")
    assert code == 0
    assert "multiply-adds" in out
    assert (tmp_path / "again.bvt").read_bytes() == (tmp_path / "m.bvt").read_bytes()


def test_inspect(artifact: Path) -> None:
    told = call_json("inspect", artifact)
    assert told["macs"]["binary"] == sum(op["macs"]["binary"] for op in told["ops"])
    code, out, _ = call("inspect", artifact)
    assert code == 0
    assert all(op["name"] in out for op in told["ops"])


def test_run(artifact: Path, images: list[Path]) -> None:
    told = call_json("run", artifact, *images, "--top", "3", "--threads", "2")
    assert (told["device"], told["emulated"], told["threads"]) == ("host", False, 2)
    assert [p["image"] for p in told["predictions"]] == [str(image) for image in images]
    for prediction in told["predictions"]:
        logits = [guess["logit"] for guess in prediction["top"]]
        assert len(logits) == 3
        assert logits == sorted(logits, reverse=True)
    right = sum(p["top"][0]["label"].replace("/", "_").replace(" ", "_") in p["image"] for p in told["predictions"])
    assert right >= len(images) - 2  # the model is right on about 9 of 10
    code, out, _ = call("run", artifact, images[0], "--device", "local")
    assert code == 0
    assert told["predictions"][0]["top"][0]["label"] in out
    assert "local" in out


def test_verify(checkpoint: Path, artifact: Path, images: list[Path], emulator: str) -> None:
    told = call_json(
        "verify",
        checkpoint,
        artifact,
        "--images",
        images[0].parent / "fashion_test.npz",
        "--limit",
        "4",
        "--device",
        "qemu:cortex-a53",
    )
    assert told["exact"]
    assert told["images"] == 4
    assert any("qemu:cortex-a53" in pair for pair in told["pairs"])
    code, out, _ = call("verify", checkpoint, artifact, "--random", "2", "--bisect")
    assert code == 0
    assert "equal bits" in out


def test_verify_says_no_with_code_1(checkpoint: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bvtdeploy import verifier

    def differs(*_: object, **__: object) -> verifier.VerifyReport:
        first = {"op": 3, "kind": "bgemm", "name": "v1", "output": 0, "module": "m", "against": "host"}
        return verifier.VerifyReport(1, pairs={"interpreter/reference": False}, first_difference=first)

    monkeypatch.setattr(verifier, "verify_model", differs)
    call_json("verify", checkpoint, artifact, code=1)
    code, out, _ = call("verify", checkpoint, artifact)
    assert code == 1
    assert "different bits" in out
    assert "bgemm" in out


def test_build(tmp_path: Path) -> None:
    told = call_json("build", "--board", "host", "--output", tmp_path)
    assert (tmp_path / "bvt_run").stat().st_size == told["files"]["bvt_run"]["bytes"]
    code, out, _ = call("build", "--board", "host")
    assert code == 0
    assert "bvt_run" in out


def test_profile(artifact: Path, images: list[Path]) -> None:
    told = call_json("profile", artifact, "--runs", "12", "--warmup", "0", "--threads", "1,2", "--input", images[0])
    assert len(told["samples_ms"]) == told["runs"] == 12
    assert [entry["threads"] for entry in told["scaling"]] == [1, 2]
    assert told["golden"]["checked"] == told["golden"]["equal"] > 0
    code, out, _ = call("profile", artifact, "--runs", "2", "--warmup", "0", "--ops", "3")
    assert code == 0
    assert "more ops" in out


def test_boards_and_doctor() -> None:
    assert "rpi4" in [board["name"] for board in call_json("boards")["boards"]]
    told = call_json("doctor")
    assert "torch" in [finding["name"] for finding in told["findings"]]
    for command in ("boards", "doctor"):
        assert call(command)[0] == 0


def test_doctor_tells_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    told = call_json("doctor")  # what is optional may be missing
    missing = {finding["name"]: finding["fix"] for finding in told["findings"] if not finding["present"]}
    assert missing["QEMU"] == "apt-get install qemu-user-static"
    assert missing["cross GCC"] == "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
    monkeypatch.setattr(importlib.import_module("bvtdeploy.doctor"), "sources_hash", lambda _: "other")
    told = call_json("doctor", code=1)  # a stale extension is not
    assert any("C sources have changed" in finding["found"] for finding in told["findings"])


# -- failures --------------------------------------------------------------------------------------------------------------

WRONG = [
    (("build", "--board", "rip4"), "no board named 'rip4'", "did you mean rpi4"),
    (("run", "none.bvt", "x.png"), "no such artifact", "bvtdeploy compile"),
    (("inspect", "none.bvt"), "no such artifact", ""),
    (("profile", "none.bvt"), "no such artifact", ""),
    (("compile", "none.pt", "-o", "x.bvt"), "", ""),
    (("compile", "none.pt", "-o", "x.bvt", "--board", "pi4"), "no board named 'pi4'", "rpi4"),
    (("compile", "none.pt"), "Missing option", "bvtdeploy compile --help"),
    (("verify", "a.pt", "b.bvt", "--random", "0"), "Invalid value", ""),
    (("verify", "a.pt", "b.bvt", "--random", "1", "--images", "x"), "not both", ""),
    (("profile", "a.bvt", "--threads", "1;2"), "commas", ""),
    (("profile", "a.bvt", "--threads", "0"), "threads go from 1 to 64", ""),
    (("profile", "a.bvt", "--runs", "0"), "a number from 1 to 10000000", ""),
    (("profile", "a.bvt", "--warmup", "x"), "a number from 0 to 10000000", ""),
    (("compile", "none.pt", "-o", "x.bvt", "--input-shape", "3,224"), "for example 3,224,224", "--help"),
    (("verify", "a.pt", "b.bvt", "--input-shape", "3,0,224"), "for example 3,224,224", "--help"),
    (("bild",), "no command 'bild'", ""),
    (("build", "--bord", "x"), "--bord", ""),
]


@pytest.mark.parametrize(("arguments", "what", "fix"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_wrong_use_exits_2_with_one_clear_message(
    arguments: tuple[str, ...], what: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = call_json(*arguments, code=2)
    assert what in told["error"]["what"]
    assert fix in told["error"]["fix"]
    code, out, err = call(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_bad_files_exit_2_and_nothing_is_written(artifact: Path, images: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.bvt"
    bad.write_bytes(artifact.read_bytes()[:-64])
    for arguments in (
        ("inspect", bad),
        ("run", bad, images[0]),
        ("profile", bad),
        ("run", artifact, bad),
        ("profile", artifact, "--input", bad),
    ):
        call_json(*arguments, code=2)
    call_json("compile", bad, "-o", tmp_path / "out.bvt", code=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.bvt"]


def test_an_unknown_device_exits_2(artifact: Path, images: list[Path]) -> None:
    told = call_json("run", artifact, images[0], "--device", "locla", code=2)
    assert "did you mean local" in told["error"]["fix"]


def test_a_board_is_no_device(artifact: Path, images: list[Path]) -> None:
    told = call_json("run", artifact, images[0], "--device", "rpi4", code=2)
    assert "rpi4 is a board" in told["error"]["what"]
    assert "--device pi@" in told["error"]["fix"] and "bvtdeploy devices add" in told["error"]["fix"]
    assert " host, " in call_json("run", artifact, images[0], "--device", "zzz", code=2)["error"]["fix"]
    assert " host, " not in call_json("profile", artifact, "--device", "zzz", code=2)["error"]["fix"]
    assert "local" in call_json("profile", artifact, "--device", "host", code=2)["error"]["fix"]


def test_a_bug_of_ours_is_called_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(api, "boards", broken)
    told = call_json("boards", code=3)
    assert "a bug of ours: RuntimeError: boom" in told["error"]["what"]
    code, _, err = call("boards")
    assert code == 3
    assert "Traceback" not in err
    monkeypatch.setenv("BVTDEPLOY_TRACEBACK", "1")
    assert "Traceback" in call("boards")[2]


def test_what_the_system_refuses_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr(api, "boards", full)
    told = call_json("boards", code=2)
    assert told["error"] == {"what": "No space left on device", "where": "/somewhere", "why": "", "fix": ""}


def test_numbers_that_json_lacks_become_null(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {**api.inspect(artifact), "meta": {"x": float("nan")}}
    monkeypatch.setattr(api, "inspect", lambda _: facts)
    out = call("inspect", artifact, "--json")[1]
    assert json.loads(out)["meta"]["x"] is None


# -- the process -----------------------------------------------------------------------------------------------------------


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bvtdeploy", *arguments], capture_output=True, text=True, timeout=120, **options)


def test_python_m_and_the_console_script_are_the_same_command() -> None:
    assert process("--version").stdout.strip().endswith(__version__)
    script = Path(sys.executable).with_name("bvtdeploy")
    if script.exists():
        assert (
            subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout == process("--version").stdout
        )
    assert process().stdout == process("--help").stdout


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m bvtdeploy boards | true"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""


def shell(line: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line.replace("CLI", f"{sys.executable} -m bvtdeploy"), "bash", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("line", ["CLI inspect $1", "CLI inspect $1 --json", "CLI --help", "CLI inspect none.bvt --json"])
def test_a_pipe_that_nobody_reads_exits_141(artifact: Path, line: str) -> None:
    done = shell(f"{{ sleep 1; {line}; echo $? >&2; }} | true", artifact)
    assert done.stderr == "141\n"


@pytest.mark.parametrize("line", ["CLI inspect $1", "CLI inspect $1 --json", "CLI inspect none.bvt --json"])
def test_output_that_cannot_be_written_exits_2(artifact: Path, line: str) -> None:
    for where, what in (("> /dev/full", "the output cannot be written"), (">&-", "standard output is closed")):
        done = shell(f"{line} {where}", artifact)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {what}")
        assert done.stderr.count("error") == 1
        assert "Traceback" not in done.stderr


def test_looking_around_needs_no_torch() -> None:
    """What does not compile or verify starts quickly."""
    code = "import sys; from bvtdeploy.cli import main; main(['boards']); main(['doctor']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False).returncode == 0


def test_text_in_a_pipe_is_not_cut(artifact: Path) -> None:
    done = process("inspect", str(artifact), env={**os.environ, "COLUMNS": "", "TERM": "dumb"})
    names = [op["name"] for op in api.inspect(artifact)["ops"]]
    assert all(name in done.stdout for name in names)
    assert "\x1b" not in done.stdout


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from bvtdeploy import views
    from bvtdeploy.console import Console

    guess = api.Guess(0, "a\x1b[31m\nb[red]", float("nan"), float("nan"))
    prediction = api.Prediction("x\x1b.png", (guess,), np.zeros(1, np.float32))
    views.show_run(Console(False), api.RunResult("m.bvt", "host", False, "ref", 1, (prediction,)))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "x\\x1b.png" in out
    assert ["-", "a\\x1b[31m\\nb[red]", "nan"] in [line.split() for line in out.splitlines()]


def test_a_narrow_terminal_keeps_the_names(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bvtdeploy.console._NO_TERMINAL_WIDTH", 0)
    monkeypatch.setenv("COLUMNS", "80")
    out = call("inspect", artifact)[1]
    assert all(op["name"] in out and op["kind"] in out for op in api.inspect(artifact)["ops"])
    assert "float MACs" not in out
    assert "for each thread" in out
    monkeypatch.setenv("COLUMNS", "140")
    assert "float MACs" in call("inspect", artifact)[1]


# -- the Python interface --------------------------------------------------------------------------------------------------


def test_the_api_prints_nothing_and_is_the_same(artifact: Path, images: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    import bvtdeploy

    result = bvtdeploy.run(artifact, images[:2])
    again = bvtdeploy.run(str(artifact), [read_image(image) for image in images[:2]], device="local")
    assert [p.logits.tobytes() for p in result.predictions] == [p.logits.tobytes() for p in again.predictions]
    assert capfd.readouterr() == ("", "")
    with pytest.raises(UserError, match="no images"):
        bvtdeploy.run(artifact, [])
    with pytest.raises(AttributeError):
        _ = bvtdeploy.nothing


def test_one_image_needs_no_list(artifact: Path, images: list[Path]) -> None:
    expected = api.run(artifact, images[:1]).predictions[0].logits.tobytes()
    for one in (images[0], str(images[0]), read_image(images[0]), read_image(images[0])[:, :, 0]):
        (prediction,) = api.run(artifact, one).predictions
        assert prediction.logits.tobytes() == expected


def test_logits_that_are_not_finite_have_no_share() -> None:
    prediction = api._predict("x", np.array([1, np.nan, np.inf], np.float32), (), 3)
    assert all(np.isnan(guess.share) for guess in prediction.top)


def test_what_a_caller_has_at_hand_is_taken(checkpoint: Path, artifact: Path, tmp_path: Path) -> None:
    names = [f"class number {i}" for i in range(10)]
    api.compile(checkpoint, tmp_path / "m.bvt", labels=names, example_input=np.zeros((1, 1, 32, 32)))
    assert api.inspect(tmp_path / "m.bvt")["labels"] == names
    assert api.verify(checkpoint, artifact, random=1, example_input=(1, 1, 32, 32)).ok
    assert call("verify", checkpoint, artifact, "--random", "1", "--input-shape", "1,32,32")[0] == 0
    call_json("compile", checkpoint, "-o", tmp_path / "no.bvt", "--input-shape", "3,32,32", code=2)


def test_an_option_that_is_no_api_argument_would_be_a_bug() -> None:
    """Every option of these commands is an argument of the function that it calls."""
    import inspect as python_inspect

    own = {"as_json", "explain", "ops", "allow_unstable", "html", "trace"}  # of the command line alone
    for name in ("compile", "verify", "run", "build", "profile", "compare"):
        function = api.profile_all if name == "profile" else getattr(api, name)
        accepted = set(python_inspect.signature(function).parameters)
        given = {p.name for p in cli.cli.commands[name].params} - own - ({"output"} if name == "profile" else set())
        assert given <= accepted, (name, given - accepted)

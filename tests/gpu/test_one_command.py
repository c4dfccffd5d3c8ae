"""`make test-gpu` without a GPU: what it runs, makes of it, and says where it runs nothing."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from harness.checkout import ROOT
from harness.processes import is_running, wait_until
from harness.records import Records, read

from gpu import __main__ as line
from gpu import contract, session
from gpu.__main__ import PROGRAMS, Program

_FOLDER = Path(__file__).parent
_RECORD = dict(name="link", value=2.0, unit="GB/s", limit=4.0, ratio=0.5, bar=0.9, met=False,
               command="c", machine="m")  # fmt: skip
_PART = {**dict.fromkeys(_RECORD), "name": "peer", "value": "a part was not run"}
_SKIPPED = {**dict.fromkeys(_RECORD), "name": "skips: skipped", "value": "no GPU here"}
_WRITES = f"""
import json, pathlib, sys
pathlib.Path(sys.argv[2]).write_text(json.dumps([{_RECORD!r}]))
pathlib.Path(sys.argv[2] + ".arguments").write_text(json.dumps(sys.argv[3:]))
"""
_HANGS = """
import pathlib, subprocess, sys, time
child = subprocess.Popen(["sleep", "60"])
pathlib.Path(sys.argv[2] + ".child").write_text(str(child.pid))
time.sleep(60)
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs instead of ours: two that end well, one of each other kind."""
    folder = tmp_path / "programs"
    folder.mkdir()
    texts = {
        "writes": _WRITES,
        "other": _WRITES.replace(repr(_RECORD), f"{_RECORD!r}, {_PART!r}"),
        "skips": _WRITES.replace(repr(_RECORD), repr(_SKIPPED)),
        "fails": _WRITES + "sys.exit(3)",
        "hangs": _HANGS,
    }
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(line, "_HERE", folder)
    programs = {name: Program(f"what {name} does", 30, ("--cases", "3")) for name in texts}
    programs["hangs"] = Program("what hangs does", 2)
    monkeypatch.setattr(line, "PROGRAMS", programs)
    return tmp_path / "out"


class TestLine:
    def test_all_programs_one_folder_and_one_table(
        self, scripts: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        scripts.mkdir()
        (scripts / "hangs.json").write_text(json.dumps([{**_RECORD, "name": "of an earlier run"}]))
        assert line.main(["--out", str(scripts)]) == 1
        seen = capfd.readouterr()
        table = seen.out.rpartition("===")[2]
        assert len(re.findall(r"^link .* MISSED$", table, re.MULTILINE)) == 3
        assert re.search(r"^skips: what skips does +skipped: no GPU here$", table, re.MULTILINE)
        assert "a part was not run" in table
        assert "of an earlier run" not in table
        assert seen.err.splitlines()[-1] == (
            "failed: fails (exit status 3), hangs (longer than 2 s)"
        )
        child = int((scripts / "hangs.json.child").read_text())
        wait_until(lambda: not is_running(child), 10, "the end of what was started by a program")
        ran = read(scripts / "test-gpu.json")
        assert [record.met for record in ran] == [True, True, None, False, False]

    def test_program_gets_a_sidecar_of_its_own(
        self, scripts: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FLEXKV_SERVER_RECV_PORT", "ipc:///tmp/somebody's")
        for name in ("writes", "other"):
            (line._HERE / f"{name}.py").write_text(
                _WRITES + "import os\npathlib.Path(sys.argv[2] + '.port').write_text("
                "os.environ['FLEXKV_SERVER_RECV_PORT'])"
            )
        assert line.main(["writes", "other", "--out", str(scripts)]) == 0
        ports = {file.read_text() for file in scripts.glob("*.port")}
        assert len(ports - {"ipc:///tmp/somebody's"}) == 2
        assert max(len(port) for port in ports) < 100

    def test_program_without_whole_records_has_failed(
        self, scripts: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (line._HERE / "writes.py").write_text("import sys; open(sys.argv[2], 'w').write('[{')")
        assert line.main(["writes", "--out", str(scripts)]) == 1
        assert capfd.readouterr().err.endswith("failed: writes (broken records)\n")

    def test_missed_bar_alone_is_no_error(self, scripts: Path) -> None:
        assert line.main(["writes", "--out", str(scripts)]) == 0

    def test_skip_leaves_the_rest(self, scripts: Path) -> None:
        assert line.main(["--out", str(scripts), "--skip", "fails", "hangs", "skips"]) == 0
        assert {file.stem for file in scripts.glob("*.json")} == {"test-gpu", "writes", "other"}

    def test_options_after_dashes_come_last(self, scripts: Path) -> None:
        assert line.main(["writes", "--out", str(scripts), "--", "--cases", "9"]) == 0
        given = json.loads((scripts / "writes.json.arguments").read_text())
        assert given == ["--cases", "3", "--cases", "9"]

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["writes", "other", "--", "--cases", "9"], "one program's; 2 are to run"),
            (["--skip", "paris"], "no such program: paris (there are writes, other"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(
        self, scripts: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            line.main(["--out", str(scripts), *words])
        assert ended.value.code == 2
        assert says in capsys.readouterr().err
        assert not scripts.exists()


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, gpu: bool = False) -> int:
    """Runs a program in this process as `make test-gpu` would; returns its exit status."""
    module = importlib.import_module(f"gpu.{name}")
    for place in (module, session):
        monkeypatch.setattr(place, "has_gpu", lambda: gpu, raising=False)
    _python, *words = line.command(name, PROGRAMS[name], folder, ())
    monkeypatch.setattr("sys.argv", words)
    return int(module.main())


class TestPrograms:
    def test_every_part_of_the_acceptance_is_there(self) -> None:
        assert set(PROGRAMS) == {
            "contract", "self_test", "geometries", "fences", "dead_forward", "visible_gpus",
            "copy_bench", "acceptance", "pairs", "batches",
        }  # fmt: skip

    @pytest.mark.parametrize("name", PROGRAMS)
    def test_program_without_a_gpu_leaves_its_reason(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert run(name, tmp_path, monkeypatch) == 0
        (record,) = read(tmp_path / f"{name}.json")
        assert record.name == f"{name}: skipped"
        assert session.NO_GPU in str(record.value)

    def test_one_gpu_is_too_few_for_two_engines_that_see_one_each(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
        assert run("visible_gpus", tmp_path, monkeypatch, gpu=True) == 0
        assert "torch sees 1" in str(read(tmp_path / "visible_gpus.json")[0].value)

    @pytest.mark.parametrize("name", ["acceptance", "pairs", "batches"])
    def test_program_without_vllm_leaves_its_reason(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
        assert run(name, tmp_path, monkeypatch) == 0
        assert "has no vLLM: VLLM_PYTHON" in str(read(tmp_path / f"{name}.json")[0].value)

    def test_every_program_here_is_in_the_documentation(self) -> None:
        """But the page's, and those that are other programs' children."""
        text = (ROOT / "docs/testing.md").read_text()
        programs = {
            path.name for path in _FOLDER.glob("*.py")
            if re.search(r"^def main\(", path.read_text(), re.MULTILINE)
        } - {"__main__.py", "report.py", "gemms.py", "moving.py"}  # fmt: skip
        assert {name for name in programs if f"| `{name}` |" not in text} == set()


class TestContract:
    def report(self, tmp_path: Path, **counts: int) -> dict[str, int]:
        file = tmp_path / "report.xml"
        words = " ".join(f'{name}="{value}"' for name, value in counts.items())
        file.write_text(f'<?xml version="1.0"?><testsuite name="t" {words}><testcase/></testsuite>')
        return contract.counted(file)

    @pytest.mark.parametrize(
        ("counts", "met"),
        [
            (dict(tests=11, errors=0, failures=0, skipped=0), True),
            (dict(tests=11, errors=0, failures=0, skipped=11), False),  # the property was missing
            (dict(tests=11, errors=1, failures=0, skipped=0), False),
            (dict(tests=11, errors=0, failures=1, skipped=0), False),
            (dict(tests=0, errors=0, failures=0, skipped=0), False),
        ],
    )
    def test_only_tests_that_all_ran_hold(
        self, tmp_path: Path, counts: dict[str, int], met: bool
    ) -> None:
        records = Records()
        assert contract.report_on(self.report(tmp_path, **counts), records) is met
        assert records.all[0].met is met

    def test_maven_without_a_network_is_a_reason_and_a_broken_build_is_none(self) -> None:
        offline = "[INFO] x\n[ERROR] Could not transfer artifact a:b:1 from central: repo: unknown"
        assert "Could not transfer artifact a:b:1" in contract.why_not_built(offline)
        assert contract.why_not_built("[ERROR] COMPILATION ERROR : cannot find symbol") == ""

    def test_class_and_its_report_are_there(self) -> None:
        found = list((ROOT / "connector-jvm/src/test/java").rglob(f"{contract.TEST}.java"))
        (package,) = [".".join(file.parts[-4:-1]) for file in found]
        assert contract.REPORT.name == f"TEST-{package}.{contract.TEST}.xml"


class Java:
    """A Java that writes down what it was given and ends as it was told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._given, self._status = folder / "given", folder / "status"
        script = folder / "java"
        script.write_text(f"""#!{sys.executable}
import json, pathlib, sys
if sys.argv[1] == "-version":
    sys.exit(print('openjdk version "25"'))
pathlib.Path({str(self._given)!r}).write_text(json.dumps(sys.argv[1:]))
print("what it printed")
sys.exit(int(pathlib.Path({str(self._status)!r}).read_text()))
""")
        script.chmod(0o755)
        (folder / "a.jar").write_text("")
        monkeypatch.setenv("FLEXKV_JAVA", str(script))
        monkeypatch.setenv("FLEXKV_JAR", str(folder / "a.jar"))
        self.ends_with(0)

    def ends_with(self, status: int) -> None:
        self._status.write_text(str(status))

    @property
    def given(self) -> list[str]:
        return list(json.loads(self._given.read_text()))


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Java:
    return Java(tmp_path, monkeypatch)


class TestJar:
    def test_self_test_gets_file_and_sizes(
        self, java: Java, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert run("self_test", tmp_path, monkeypatch, gpu=True) == 0
        at = java.given.index("io.flexkv.transfer.CudaSelfTest")
        out = str(tmp_path / "self_test.json")
        assert java.given[at + 1 :] == [out, str(4 << 30), str(256 << 20)]
        assert java.given[at - 2 : at] == ["-cp", str(tmp_path / "a.jar")]

    def test_self_test_that_fails_shows_the_end_of_its_log(
        self, java: Java, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        java.ends_with(1)
        assert run("self_test", tmp_path, monkeypatch, gpu=True) == 1
        assert "what it printed" in capsys.readouterr().out

    def test_copy_bench_compiles_the_bare_loop_and_gets_the_plan(
        self, java: Java, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compiled = tmp_path / "compiled"
        monkeypatch.setenv("CXX", str(tmp_path / "cxx"))
        (tmp_path / "cxx").write_text(f'#!/bin/sh\necho "$@" > {compiled}\n')
        (tmp_path / "cxx").chmod(0o755)
        assert run("copy_bench", tmp_path, monkeypatch, gpu=True) == 0
        at = java.given.index("io.flexkv.transfer.CudaCopyBench")
        bare, out, *numbers = java.given[at + 1 :]
        assert bare in compiled.read_text().split()
        assert str(_FOLDER / "bare_copy.cpp") in compiled.read_text().split()
        assert out == str(tmp_path / "copy_bench.json")
        # rounds, bytes on the GPU, of a pass, of the cold pool, KiB of rows from and to, layers
        assert numbers == ["31", str(8 << 30), str(256 << 20), str(32 << 20), "4", "2048", "32"]

    def test_copy_bench_without_a_compiler_says_so(
        self, java: Java, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CXX", "no-such-compiler")
        assert run("copy_bench", tmp_path, monkeypatch, gpu=True) == 0
        assert "(no-such-compiler): install g++" in str(read(tmp_path / "copy_bench.json")[0].value)

    @pytest.mark.parametrize("name", ["self_test", "copy_bench"])
    def test_no_jar_is_a_reason(
        self, java: Java, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FLEXKV_JAR", str(tmp_path / "none.jar"))
        monkeypatch.setenv("CXX", "true")
        assert run(name, tmp_path, monkeypatch, gpu=True) == 0
        assert "which is not a file" in str(read(tmp_path / f"{name}.json")[0].value)

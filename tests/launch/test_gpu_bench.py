"""What a GPU is asked: phases are ended, told and resumed, their commands are taken, and some of them run here."""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

import pytest
from conftest import PATIENCE, ROOT, until
from test_docs import command_problems

from benchmarks import gpu, gpu_phases, gpu_summary
from benchmarks.gpu_phases import OUTPUT, Phase

WRITES = "import sys; open(sys.argv[1], 'w').write('{}'); open(sys.argv[2], 'a').write('x')"
HANGS = "import subprocess, sys; subprocess.run(['sleep', '600'])"


def writing(name: str, tmp_path: pathlib.Path, code: str = WRITES, **values) -> Phase:
    """A phase that writes an empty record, and notes in a file that it ran."""
    return Phase(name, 30, ("-c", code, OUTPUT, str(tmp_path / f"{name}.ran")), **values)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Asks a GPU some phases of ours; returns the exit code."""
    monkeypatch.setattr(gpu, "GRACE", 0.2)

    def ask(phases: list[Phase], *words: str) -> int:
        monkeypatch.setattr(gpu, "phases", lambda device, smoke: phases)
        return gpu.main([f"--output={tmp_path / 'out'}", *words])

    return ask


def ran(tmp_path: pathlib.Path) -> dict[str, int]:
    """How often each phase came to its end."""
    return {path.stem: len(path.read_text()) for path in sorted(tmp_path.glob("*.ran"))}


def test_a_phase_that_hangs_is_ended_with_all_that_it_started(asked, tmp_path, capsys, monkeypatch):
    noted = tmp_path / "group"
    code = f"import os; open({str(noted)!r}, 'w').write(str(os.getpid())); {HANGS}"

    class Begun(subprocess.Popen):
        """A process whose time begins when it hangs, however busy this machine is."""

        def wait(self, timeout=None):
            until(lambda: noted.exists() and noted.read_text())
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Begun)
    assert asked([Phase("hangs", 1, ("-c", code)), writing("after", tmp_path)]) == 3
    group = int(noted.read_text())
    until(lambda: not alive(group))
    assert re.search(r"^hangs .*ended at its limit of 1 s", capsys.readouterr().out, re.MULTILINE)
    assert ran(tmp_path) == {"after": 1}


def alive(group: int) -> bool:
    """Whether a process of a group is there that has not ended."""
    states = [path.read_text().rpartition(")")[2].split() for path in pathlib.Path("/proc").glob("[0-9]*/stat")]
    return any(int(fields[2]) == group and fields[0] != "Z" for fields in states)


def test_a_phase_that_fails_stops_no_other_and_is_told(asked, tmp_path, capsys):
    fails = writing("fails", tmp_path, f"{WRITES}; print('out of memory'); sys.exit(5)")
    silent = writing("silent", tmp_path, "pass")
    absent = writing("absent", tmp_path, needs="no_such_module")
    assert asked([fails, silent, absent, writing("after", tmp_path)]) == 3
    told = capsys.readouterr().out
    lines = {line.split()[0]: line for line in told.partition("phase ")[2].splitlines() if line}
    assert "exit code 5" in lines["fails"]
    assert "no record was written" in lines["silent"]
    assert "left out: there is no no_such_module" in lines["absent"]
    assert (tmp_path / "out" / "fails.log").read_text() == "out of memory\n"
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == [
        "after.json",
        "fails.part.json",
        "phases.json",
    ]


def test_a_second_run_does_what_is_left(asked, tmp_path):
    kept, broken = writing("kept", tmp_path), writing("broken", tmp_path, f"{WRITES}; sys.exit(1)")
    assert asked([kept, broken]) == 3
    mended = writing("broken", tmp_path)
    assert asked([kept, mended]) == 0
    assert ran(tmp_path) == {"kept": 1, "broken": 2}
    assert asked([kept, mended]) == 0
    assert ran(tmp_path) == {"kept": 1, "broken": 2}
    (tmp_path / "out" / "kept.json").unlink()
    assert asked([kept, mended]) == 0
    assert ran(tmp_path) == {"kept": 2, "broken": 2}
    assert asked([kept._replace(flags="--xla_cpu_enable_fast_math=true"), mended]) == 0
    assert ran(tmp_path) == {"kept": 3, "broken": 2}, "another command is another question"
    assert asked([kept, mended], "--again", "--only=brok*") == 0
    assert ran(tmp_path) == {"kept": 3, "broken": 3}


def test_no_phase_begins_when_the_time_is_over(asked, tmp_path, capsys):
    assert asked([writing("late", tmp_path)], "--seconds=0.5") == 3
    assert "not begun: no time was left" in capsys.readouterr().out
    assert ran(tmp_path) == {}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_phase_too(tmp_path, number, code):
    noted = tmp_path / "group"
    hanging = f"import os; open({str(noted)!r}, 'w').write(str(os.getpid())); {HANGS}"
    program = (
        "from benchmarks import gpu; from benchmarks.gpu_phases import Phase; import sys; "
        f"gpu.phases = lambda *_: [Phase('hangs', 60, ('-c', {hanging!r}))]; "
        f"sys.exit(gpu.guarded(['--output={tmp_path / 'out'}']))"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        until(lambda: noted.exists() and noted.read_text())
        process.send_signal(number)
        assert process.wait(PATIENCE) == code
    until(lambda: not alive(int(noted.read_text())))


def test_a_pattern_that_fits_no_phase_is_told(asked, tmp_path):
    with pytest.raises(SystemExit, match="no phase is called flag_: there are kept"):
        asked([writing("kept", tmp_path)], "--only=flag_,kept")


@pytest.mark.parametrize(("device", "smoke"), [("gpu", False), ("cpu", True)])
def test_the_words_of_every_phase_are_taken(device, smoke, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert gpu.main([f"--device={device}", "--dry_run", *["--smoke"] * smoke]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(gpu_phases.phases(device, smoke))
    for line in lines:
        words = shlex.split(line)
        program = words[words.index("timeout") + 3 :]
        if program[0] == "-m":
            assert program[1] == "lgjax.bench"
            assert command_problems(shlex.join(["python", *program])) == []
        else:
            text = (ROOT / program[0]).read_text(encoding="utf-8")
            assert [word for word in program[1:] if f'"{word.partition("=")[0]}"' not in text] == []


@pytest.mark.parametrize(("modes", "module"), [("RESTORING", "restore"), ("TRAINING", "train")])
def test_the_modes_of_pytorch_are_those_of_its_side(modes, module):
    """Read from the text: PyTorch is not here."""
    text = (ROOT / "benchmarks" / "peers" / f"{module}.py").read_text(encoding="utf-8")
    asked = getattr(gpu_phases, modes).removeprefix("--modes=").split(",")
    assert set(asked) <= set(re.findall(r'"(\w+)": Mode\(', text))


def test_phases_have_names_and_files_of_their_own():
    every = gpu_phases.phases("gpu", smoke=False)
    assert len({phase.name for phase in every}) == len(every)
    assert all(sum(OUTPUT in word for word in phase.words) == 1 for phase in every)
    assert all(0 < phase.limit <= 150 for phase in every)


def test_one_gpu_of_those_that_are_visible_is_asked(monkeypatch):
    phase = Phase("p", 1, (), "--xla_b=1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    assert (
        gpu.environment(phase, "gpu").items()
        >= {"CUDA_VISIBLE_DEVICES": "3", "XLA_FLAGS": "--xla_a=1 --xla_b=1"}.items()
    )
    assert "CUDA_VISIBLE_DEVICES" not in gpu.environment(phase, "cpu")


def test_figures_are_those_of_committed_records():
    """Of an H200 and of two cores, as docs/speed.md has them."""
    h200, peers = (
        json.loads((ROOT / "benchmarks" / f"{name}.json").read_text()) for name in ("bench_h200", "peers_cpu")
    )
    assert gpu_summary.figures(h200) == [
        "vae_lg_neural_tv: 3.09 s a volume, 1.27 ms, paper / ours 77",
        "vae_lg_est_tv: 9.6 s a volume, 3.98 ms, paper / ours 31",
        "vae_elbo_tv: 4.54 s a volume, 1.88 ms, paper / ours 94",
        "training of vae 142 steps/s",
    ]
    assert "vae_lg_est_tv, float32: lgjax / compile_channels_last 0.60" in gpu_summary.figures(peers)
    both = {"precisions": {name: {"ratios": {"m": 0.5}, "best": {"m": "eager"}} for name in ("a", "b")}}
    both["precisions"]["b"]["graph_ratios"] = {"m": 0.25}
    assert gpu_summary.figures(both) == [
        "m, a: lgjax / eager 0.50",
        "m, b: lgjax / eager 0.50",
        "m, b: lgjax as one graph / eager 0.25",
    ]


def test_lever_are_set_beside_the_default(tmp_path):
    for name, median in (("lever_default", 0.004), ("lever_graphs", 0.001)):
        method = {"seconds_per_iteration": {"median": median}, "paper_over_ours": None, "volume": {"seconds": 2.0}}
        (tmp_path / f"{name}.json").write_text(json.dumps({"methods": {"m": method}}))
    outcomes = {name: {"fault": "", "seconds": 9.0} for name in ("lever_default", "lever_graphs", "lever_unknown")}
    lines = gpu_summary.summary(tmp_path, outcomes).splitlines()
    assert lines[2].split() == [
        "lever_graphs",
        "9.0",
        "m:",
        "2",
        "s",
        "a",
        "volume,",
        "1",
        "ms;",
        "0.25",
        "of",
        "default",
    ]
    assert lines[-1].split() == ["together", "27.0"]


def test_the_launcher_asks_this_cpu_at_tiny_sizes(tmp_path):
    """Two phases, one of them with flags of XLA, which ends a process that does not know them."""
    words = ["--device=cpu", "--smoke", "--only=forms,lever_graphs_unrolled", f"--output={tmp_path}"]
    environment = {**os.environ, "PYTHON": sys.executable}
    command = ["bash", "launch/gpu.sh", "bench", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    records = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(records) == {"forms", "lever_graphs_unrolled", "phases"}
    assert [records["phases"][name]["fault"] for name in ("forms", "lever_graphs_unrolled")] == ["", ""]
    assert list(records["lever_graphs_unrolled"]["methods"]) == ["vae_lg_neural_tv"]
    assert "lever_graphs_unrolled" in done.stdout.partition("what came of it")[2]


def test_the_probe_sees_what_the_caller_put_on_the_path(tmp_path):
    """On a machine without network, wheels beside the image can come by PYTHONPATH alone."""
    seen, python = tmp_path / "seen", tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$PYTHONPATH" >> {shlex.quote(str(seen))}\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "PYTHONPATH": "/their/wheels"}
    words = ["bash", "launch/gpu.sh", "bench", "--device=cpu", f"--output={tmp_path / 'out'}"]
    subprocess.run(words, cwd=ROOT, env=environment, check=True, timeout=PATIENCE)
    assert seen.read_text().splitlines() == [f"{ROOT}:/their/wheels", "/their/wheels"]

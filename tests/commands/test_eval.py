"""Evaluation end to end on tiny restorations written to disk, against numbers computed here another way."""

import dataclasses
import itertools
import json
import math
import pathlib
import re
import shutil
import sys
import weakref

import images
import measured
import numpy as np
import pytest
from absl import flags
from matplotlib import figure
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from configs import common
from lgjax import eval as door
from lgjax import models, restore
from lgjax.cli import parse
from lgjax.derivatives import runs
from lgjax.evaluation import measure, metrics, published, records, references, tally
from lgjax.methods import names as methods
from lgjax.report import write
from lgjax.runtime.errors import EnvironmentFault, InputError, UsageError
from lgjax.scans import pictures, sources

SHAPE = (7, 12, 10)
PIL = np.array([[0, 0, -1.5, 8], [-2, 0, 0, 3], [0, -1, 0, 5], [0, 0, 0, 1.0]])  # x of the array runs to posterior
THRESHOLDS = {"0.001": 3.0, "0.005": 2.5, "0.01": 2.0, "0.05": 1.0}
TAGS = {"0.001": "fpr0p1", "0.005": "fpr0p5", "0.01": "fpr1", "0.05": "fpr5", "0.002": "fpr0p2", "0.03": "fpr3"}
KINDS = {"sub-01": "glioma", "sub-02": "glioma", "sub-03": "ms", "sub-04": "healthy"}


PAIRS = measured.settings(least_subjects=2)  # intervals of the few subjects that there are


@pytest.fixture
def drawn():
    """For a test that has its figures drawn."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Figures are made, but not drawn, which takes half of the time, unless a test asks for `drawn`."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(figure.Figure, "savefig", lambda *_, **__: None)


def run_evaluation(folders, labels, output, settings=PAIRS, **named) -> int:
    """Evaluates as the command does; returns the exit code."""
    ways = {key: named.pop(key) for key in ("assume_ras", "any_sequence") if key in named}
    known = references.find(labels, values=named.pop("lesion_labels", ()), **ways)
    return door.tell(write.run_evaluation(folders, known, output, settings, **named))


def evaluate(folder, known, settings=PAIRS) -> measure.Result:
    return measure.evaluate(folder, known, settings)


def subject(index: int, kind: str):
    """Returns brain, lesion label and score of one made-up subject."""
    rng = np.random.default_rng(index)
    brain = np.zeros(SHAPE, bool)
    brain[1:6, 1:11, 1:9] = True
    label = np.zeros(SHAPE, np.uint8)
    if kind != "healthy":
        label[2:4, 2 + index : 6 + index, 3:6] = rng.choice([1, 2, 4], size=(2, 4, 3))
        label[2, 0, 0] = 1  # outside the brain: counts nowhere
    score = np.abs(rng.normal(size=SHAPE)).astype(np.float32) + 1.5 * (label > 0) * brain
    return brain, label, np.round(score * brain, 1).astype(np.float32)  # rounded: ties


def write_labels(root, kinds=KINDS):
    lines = ["participant_id\tlesion_kind"]
    for index, (name, kind) in enumerate(kinds.items()):
        anat = root / name / "anat"
        scan = np.arange(math.prod(SHAPE), dtype=np.float32).reshape(SHAPE) + index
        images.save(anat / f"{name}_T2w.nii.gz", scan, PIL)
        if kind != "healthy":
            images.save(anat / f"{name}_label-lesion_mask.nii.gz", subject(index, kind)[1], PIL)
        lines.append(f"{name}\t{kind}")
    (root / "participants.tsv").write_text("\n".join(lines) + "\n")
    return root


def write_predictions(root, labels, kinds=KINDS, **changes):
    hashes = {item.identifier: item.image().sha256 for item in sources.find(str(labels))}
    for index, (name, kind) in enumerate(kinds.items()):
        brain, _, score = subject(index, kind)
        start = root / name / "anat" / f"{name}_space-orig_"
        outputs = {"desc-anomaly_T2w": score, "desc-restored_T2w": score + 1}
        outputs["desc-brain_mask"] = brain.astype(np.uint8)
        for rate, threshold in changes.get("Thresholds", THRESHOLDS).items():
            # Detections outside the brain must not count.
            outputs[f"label-lesion_desc-{TAGS[rate]}_mask"] = ((score > threshold) | ~brain).astype(np.uint8)
        for entities, data in outputs.items():
            images.save(start.with_name(f"{start.name}{entities}.nii.gz"), data, PIL)
        sidecar = {
            "Method": "vae_lg_neural_tv",
            "Score": "absolute",
            "InputSHA256": hashes.get(name, name),
            "ConfigSHA256": "c0",
            "WeightsSHA256": "d0",
            "Version": "0.1.0",
            "TrainedOn": "phantom:train",
            "Lambda": 3.0,
            "Thresholds": THRESHOLDS,
            "CalibrationSubjects": ["e0"],
            "Device": "cpu",
        }
        start.with_name(f"{start.name}desc-anomaly_T2w.json").write_text(json.dumps(sidecar | changes))
    return root


@pytest.fixture
def folders(tmp_path):
    labels = write_labels(tmp_path / "labels")
    return write_predictions(tmp_path / "restored", labels), labels, tmp_path / "out"


def found_in(labels):
    return references.by_identifier(str(labels), sources.find(str(labels)))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sidecar_of(predictions, name):
    return predictions / name / "anat" / f"{name}_space-orig_desc-anomaly_T2w.json"


@pytest.mark.usefixtures("drawn")
def test_one_method_end_to_end(folders, capsys):
    predictions, labels, output = folders
    assert run_evaluation([predictions], str(labels), output) == 0
    found = json.loads((output / "metrics.json").read_text())
    cases = [subject(index, kind) for index, kind in enumerate(KINDS.values())]
    truth = [(label > 0)[brain] for brain, label, _ in cases]
    scores = [score[brain] for brain, _, score in cases]
    assert found["auc"] == pytest.approx(roc_auc_score(np.concatenate(truth), np.concatenate(scores)))
    assert found["auprc"] == pytest.approx(average_precision_score(np.concatenate(truth), np.concatenate(scores)))
    for rate, threshold in THRESHOLDS.items():
        dice = [f1_score(t, s > threshold) for t, s in zip(truth, scores, strict=True) if t.any()]
        entry = found["dice"][rate]
        assert entry["n"] == 3
        assert entry["mean"] == pytest.approx(np.mean(dice))
        assert entry["std"] == pytest.approx(np.std(dice, ddof=1))
        assert entry["ci95"][0] <= entry["mean"] <= entry["ci95"][1]
        pooled = (np.concatenate(scores) > threshold)[~np.concatenate(truth)]
        assert entry["achieved_fpr"] == pytest.approx(pooled.mean())
    group = found["groups"]["glioma"]
    expected = roc_auc_score(np.concatenate(truth[:2]), np.concatenate(scores[:2]))
    assert (group["n_subjects"], group["auc"]) == (2, pytest.approx(expected))
    assert (found["method"], found["score"], found["negatives"]) == ("vae_lg_neural_tv", "absolute", "brain")
    assert found["thresholds"] == THRESHOLDS
    assert found["lesion_outside_brain_voxels"] == 3
    assert found["other_scans"] == 0
    assert found["references"] == {
        name: f"{name}/anat/{name}_label-lesion_mask.nii.gz" if kind != "healthy" else ""
        for name, kind in KINDS.items()
    }
    assert (found["notes"], found["provenance"]["lesion_labels"]) == ({}, [])
    assert found["provenance"]["trained_on"] == "phantom:train"
    assert (found["auc_resolution"], found["auprc_resolution"], found["score_bits"]) == (0, 0, 32)  # exact
    detections = [score > THRESHOLDS["0.01"] for _, _, score in cases]
    masks = [((label > 0) & brain, found & brain) for (brain, label, _), found in zip(cases, detections, strict=True)]
    spread = [metrics.hd95(detected, reference, PIL) for reference, detected in masks[:3]]
    assert found["hd95"]["mean"] == pytest.approx(np.mean(spread))
    assert (found["hd95"]["n"], found["healthy_fp_ml"]["n"]) == (3, 1)
    assert found["healthy_fp_ml"]["mean"] == pytest.approx(masks[3][1].sum() * 3 / 1000)  # voxels of 3 mm3
    assert found["reasons"]["healthy_fp_ml/std"] == "fewer than two subjects"
    for rate, threshold in THRESHOLDS.items():
        wrong = [((score > threshold) & brain & (label == 0)).sum() * 3 / 1000 for brain, label, score in cases]
        assert found["fp_ml"]["healthy"][rate]["mean"] == pytest.approx(wrong[3])
        patients = found["fp_ml"]["patients"][rate]
        assert (patients["n"], patients["mean"]) == (3, pytest.approx(np.mean(wrong[:3])))
        assert patients["std"] == pytest.approx(np.std(wrong[:3], ddof=1))
        reach = stats.t.ppf(0.975, 2) * stats.sem(wrong[:3])
        assert patients["ci95"] == pytest.approx([max(patients["mean"] - reach, 0), patients["mean"] + reach])
    assert found["reasons"]["seconds_per_iteration/median"].startswith("nothing is iterated")
    assert found["seconds_per_iteration"]["median"] is None
    printed = capsys.readouterr().out
    assert "Measured on 4 subjects" in printed
    assert "Trained on phantom:train" in printed
    assert f"{found['auc']:.3f}" in printed
    assert (output / "table.md").read_text() in printed


def test_values_that_are_lesion_and_notes_on_references(folders, capsys):
    """The values 1 and 4 of 0, 1, 2 and 4; a reference that no name tells is taken with a note, which is printed."""
    predictions, labels, output = folders
    path = labels / "sub-02" / "anat" / "sub-02_label-lesion_mask.nii.gz"
    path.rename(path.with_name("W39_Segm.nii.gz"))
    assert run_evaluation([predictions], str(labels), output, lesion_labels=(1, 4)) == 0
    found = json.loads((output / "metrics.json").read_text())
    assert found["provenance"]["lesion_labels"] == [1, 4]
    assert found["references"]["sub-02"] == "sub-02/anat/W39_Segm.nii.gz"
    (note,) = found["notes"].values()
    assert note in capsys.readouterr().err
    for text in (output / "table.md", output / "report.html"):
        assert "Lesion: the values 1, 4 of the references." in text.read_text()
        assert note in text.read_text()
    table = [line.split("\t") for line in (output / "subjects.tsv").read_text().splitlines()]
    rows = {row[0]: dict(zip(table[0], row, strict=True)) for row in table[1:]}
    for index, (name, kind) in enumerate(KINDS.items()):
        brain, label, _ = subject(index, kind)
        assert rows[name]["lesion_voxels"] == str((np.isin(label, (1, 4)) & brain).sum())
    with pytest.raises(UsageError, match=r"--lesion_labels=7: no reference holds them\. They hold 0, 1, 2, 4\."):
        run_evaluation([predictions], str(labels), output, lesion_labels=(7,))


@pytest.mark.parametrize("given", [["a"], ["0"], ["1", "0"], [""], ["nan"], []])
def test_values_of_lesion_are_numbers_other_than_0(given):
    assert door.lesion_labels(None) == ()
    assert door.lesion_labels(["1", "2.5", "-1"]) == (1, 2.5, -1)
    with pytest.raises(UsageError, match=r"--lesion_labels=.*expected numbers other than 0"):
        door.lesion_labels(given)


def test_the_healthy_group_has_nulls_with_reasons(folders):
    predictions, labels, _ = folders
    found = evaluate(predictions, found_in(labels)).metrics.groups["healthy"]
    assert (found.auc, found.auprc, found.dice_oracle) == (None, None, None)
    assert found.dice["0.01"].mean is None
    assert found.dice["0.01"].achieved_fpr > 0
    assert found.lesion_wise.f1 is None
    for key in ("auc", "auprc", "dice_oracle", "dice/0.01/mean", "dice/0.01/ci95", "lesion_wise/f1"):
        assert found.reasons[key]


def nulls(found, path=""):
    for key, value in found.items():
        if isinstance(value, dict) and key not in ("reasons", "groups", "failed", "provenance"):
            yield from nulls(value, f"{path}{key}/")
        elif value is None:
            yield f"{path}{key}"


def test_every_null_has_a_reason(folders):
    predictions, labels, _ = folders
    result = evaluate(predictions, found_in(labels))
    for found in (result.metrics, *result.metrics.groups.values()):
        assert set(nulls(records.to_json(found))) == set(found.reasons)


def test_rates_are_those_of_the_predictions(folders, tmp_path):
    _, labels, _ = folders
    other = write_predictions(tmp_path / "other", labels, Thresholds={"0.002": 3.0, "0.03": 1.5}, MaskRate="0.03")
    found = evaluate(other, found_in(labels))
    assert list(found.metrics.dice) == ["0.002", "0.03"]
    assert (found.metrics.mask_rate, found.metrics.lesion_wise.fpr) == ("0.03", 0.03)
    for index, (row, kind) in enumerate(zip(found.rows, KINDS.values(), strict=True)):
        brain, label, score = subject(index, kind)
        reference, detected = (label > 0) & brain, (score > 1.5) & brain
        assert row.detected_ml == pytest.approx(detected.sum() * 3 / 1000)
        assert row.false_positive_ml == pytest.approx((detected & ~reference).sum() * 3 / 1000)
        assert row.hd95 == metrics.hd95(detected, reference, PIL)
        assert row.predicted_components == metrics.lesion_wise(detected, reference, PAIRS).n_predicted
        assert row.fpr["0.002"] == pytest.approx((score > 3)[brain & ~reference].mean())
    assert found.metrics.detected_ml.mean == pytest.approx(np.mean([row.detected_ml for row in found.rows[:3]]))
    assert found.metrics.lesion_ml.mean == pytest.approx(np.mean([row.lesion_ml for row in found.rows[:3]]))
    plain = write_predictions(tmp_path / "none", labels, Thresholds={})
    assert evaluate(plain, found_in(labels)).metrics.reasons["hd95/mean"] == "no detection mask at 1 % FPR"


def test_a_lesion_outside_the_brain_mask_was_missed(folders, capsys):
    """The patient stays in every mean, with 0; the voxels that are judged are those of the mask as it is."""
    predictions, labels, output = folders
    brain, label, score = subject(2, "ms")
    cut = brain & ~(label > 0)
    images.save(predictions / "sub-03" / "anat" / "sub-03_space-orig_desc-brain_mask.nii.gz", cut.astype(np.uint8), PIL)
    assert run_evaluation([predictions], str(labels), output) == 0
    found = json.loads((output / "metrics.json").read_text())
    assert (found["n_with_lesion"], found["dice"]["0.01"]["n"], found["missed_by_brain_mask"]) == (3, 3, ["sub-03"])
    others = [f1_score((label > 0)[brain], (score > 2)[brain]) for brain, label, score in map(subject, (0, 1), "gg")]
    assert found["dice"]["0.01"]["mean"] == pytest.approx(sum(others) / 3)
    ms = found["groups"]["ms"]
    assert (ms["dice"]["0.01"]["mean"], ms["lesion_wise"]["sensitivity"], ms["lesion_wise"]["f1"]) == (0, 0, 0)
    assert (ms["n_with_lesion"], ms["auc"]) == (1, None)
    assert ms["dice"]["0.01"]["achieved_fpr"] == pytest.approx((score > 2)[cut].mean())
    assert ms["healthy_fp_ml"]["n"] == 0
    told = capsys.readouterr()
    for text in (told.out, told.err, (output / "report.html").read_text()):
        assert "Lesion wholly outside the brain mask" in text
        assert "sub-03" in text
    row = next(line.split("\t") for line in (output / "subjects.tsv").read_text().splitlines() if "sub-03" in line)
    head = (output / "subjects.tsv").read_text().splitlines()[0].split("\t")
    columns = dict(zip(head, row, strict=True))
    assert (columns["dice_0.01"], columns["lesion_voxels"]) == ("0", "0")
    assert columns["lesion_outside_brain_voxels"] == str((label > 0).sum())


def test_displaced_tissue_is_neither_lesion_nor_healthy(folders):
    predictions, labels, _ = folders
    known, cases = found_in(labels), []
    for index, (name, kind) in enumerate(KINDS.items()):
        brain, label, score = subject(index, kind)
        pushed = np.random.default_rng(index).random(SHAPE) < (0.2 if kind == "glioma" else 0)
        if kind == "glioma":
            image = images.volume(pushed, PIL)
            known.subjects[name] = dataclasses.replace(known.subjects[name], displaced=lambda image=image: image)
        cases.append((brain & ~(pushed & (label == 0)), (label > 0) & brain, score, pushed & brain & (label == 0)))
    found = evaluate(predictions, known)
    truth, scores = (np.concatenate([case[k][case[0]] for case in cases]) for k in (1, 2))
    assert found.metrics.auc == pytest.approx(roc_auc_score(truth, scores))
    assert found.metrics.auprc == pytest.approx(average_precision_score(truth, scores))
    assert found.metrics.dice["0.05"].achieved_fpr == pytest.approx((scores > 1)[~truth].mean())
    assert found.metrics.negatives == "brain without the tissue that lesions displace"
    assert found.metrics.groups["ms"].negatives == "brain"
    assert found.metrics.displaced_voxels == sum(case[3].sum() for case in cases) > 20
    for row, (judged, reference, score, pushed) in zip(found.rows, cases, strict=True):
        detected = (score > 2) & judged
        assert (row.displaced_voxels, row.brain_voxels) == (pushed.sum(), pushed.sum() + judged.sum())
        assert row.false_positive_ml == pytest.approx((detected & ~reference).sum() * 3 / 1000)
        if reference.any():
            assert row.dice["0.01"] == pytest.approx(f1_score(reference[judged], detected[judged]))
            assert row.predicted_components == metrics.lesion_wise(detected, reference, PAIRS).n_predicted
    elsewhere = images.volume(np.zeros((2, 2, 2)), PIL)
    known.subjects["sub-01"] = dataclasses.replace(known.subjects["sub-01"], displaced=lambda: elsewhere)
    assert list(evaluate(predictions, known).metrics.failed) == ["sub-01"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"connectivity": 8}, "connectivity=8: expected 6, 18 or 26"),
        ({"lesion_share": 0.0}, "lesion_share=0: expected a number above 0"),
        ({"detection_share": 1.5}, "detection_share=1.5: expected"),
        ({"least_subjects": 1}, "least_subjects=1: expected 2 or more"),
        ({"family_error": 1.0}, "family_error=1: expected a number between 0 and 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, told):
    with pytest.raises(UsageError, match=f"--config.{told}"):
        measured.settings(**change)


def test_subjects_table(folders):
    predictions, labels, output = folders
    run_evaluation([predictions], str(labels), output)
    head, *rows = [line.split("\t") for line in (output / "subjects.tsv").read_text().splitlines()]
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert table["sub-04"]["dice_0.01"] == "n/a"
    brain, label, score = subject(0, "glioma")
    assert table["sub-01"]["lesion_voxels"] == str((label[brain] > 0).sum())
    assert float(table["sub-01"]["lesion_ml"]) == pytest.approx((label[brain] > 0).sum() * 3 / 1000)
    assert float(table["sub-01"]["dice_0.01"]) == pytest.approx(f1_score(label[brain] > 0, score[brain] > 2), abs=1e-5)
    assert table["sub-01"]["status"] == "ok"
    for index, (name, kind) in enumerate(KINDS.items()):
        brain, label, score = subject(index, kind)
        wrong = (score > 2) & brain & ~(label > 0)
        assert float(table[name]["false_positive_ml"]) == pytest.approx(wrong.sum() * 3 / 1000, rel=1e-5)
    assert table["sub-04"]["hd95"] == "n/a"
    assert float(table["sub-01"]["hd95"]) > 0


RESTORATION = {
    "SecondsPerIteration": 0.25,
    "BatchSize": 24,
    "Grid": [64, 48],
    "SliceStep": 1,
    "Search": {
        "strength": 3.0,
        "ssim": 0.95,
        "target": 0.95,
        "curve": [[1, 0.8], [3, 0.95]],
        "monotone": True,
        "reached": True,
    },
    "Convergence": {"iteration": [0, 9], "prior_gradient": [1, 2], "data_term": [3, 4], "change": [0.2, 0.1]},
}


def test_what_the_sidecars_say_of_the_restoration(folders):
    predictions, labels, output = folders
    write_predictions(predictions, labels, **RESTORATION)
    edit(sidecar_of(predictions, "sub-01"), SecondsPerIteration=0.75, Convergence=None)
    edit(sidecar_of(predictions, "sub-02"), SecondsPerIteration=None)
    assert run_evaluation([predictions], str(labels), output) == 0
    found = json.loads((output / "metrics.json").read_text())
    time = {"median": 0.25, "n": 3, "batch_size": 24, "grid": [64, 48]}
    assert found["seconds_per_iteration"] == time
    assert found["convergence"] == {"iteration": [0, 9], "change": [0.2, 0.1]}
    assert found["search"]["strength"] == 3
    table = (output / "table.md").read_text()
    assert "batches of 24 slices of 64x48 on cpu" in table
    assert "0.250" in table
    page = (output / "report.html").read_text()
    assert "How lambda was chosen" in page
    assert "Did the restoration settle?" in page


@pytest.mark.parametrize(
    "change",
    [
        {"SecondsPerIteration": "fast"},
        {"SecondsPerIteration": -1},
        {"BatchSize": 0},
        {"BatchSize": True},
        {"Grid": [64]},
        {"Grid": [64, "x"]},
        {"SliceStep": 1.5},
        {"Kernels": "cuDNN"},
        {"CalibrationKernels": 1},
        {"SliceStep": 10**400},
        {"Search": {"strength": 1}},
        {"Search": RESTORATION["Search"] | {"curve": [[1]]}},
        {"Convergence": {"iteration": [1, 2], "change": [1]}},
        {"Convergence": {"iteration": [], "change": []}},
        {"CalibrationSubjects": [["e0"]]},
        {"Lambda": math.nan},
        {"TrainedOn": {"x": math.inf}},
    ],
)
def test_a_damaged_sidecar_fails_its_subject_alone(folders, change):
    predictions, labels, _ = folders
    write_predictions(predictions, labels, **RESTORATION)
    edit(sidecar_of(predictions, "sub-02"), **change)
    if change == {"SliceStep": 10**400}:  # a whole number: another experiment
        with pytest.raises(UsageError, match="mixes experiments"):
            evaluate(predictions, found_in(labels))
        return
    failed = evaluate(predictions, found_in(labels)).metrics.failed
    assert list(failed) == ["sub-02"]
    (key,) = change
    assert (key in failed["sub-02"]) or "not JSON compliant" in failed["sub-02"]


def test_every_third_slice_of_a_lesion_is_one_lesion(folders, tmp_path):
    _, labels, _ = folders
    sparse = write_predictions(tmp_path / "sparse", labels, SliceStep=3)
    # The second array axis runs along the body: brain at 1, 4, 7 and 10 of it.
    _, label, _ = subject(0, "glioma")
    brain, detected = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    brain[1:6, 1:11:3, 1:9] = 1
    detected[3, :, 4] = 1
    start = sparse / "sub-01" / "anat"
    images.save(start / "sub-01_space-orig_desc-brain_mask.nii.gz", brain, PIL)
    images.save(start / "sub-01_space-orig_label-lesion_desc-fpr1_mask.nii.gz", detected * brain, PIL)
    result = evaluate(sparse, found_in(labels))
    row = result.rows[0]
    inside = (label > 0) & (brain == 1)
    assert row.lesion_ml == pytest.approx(inside.sum() * 3 / 1000)
    assert row.predicted_components == 1  # in slices 3 apart, without the slices in between
    assert row.reference_lesions == 1
    assert row.lesion_outside_brain_voxels == 0  # slices that were not looked at are not said to miss lesions
    # HD95 as of an image that holds those slices alone, three voxels apart.
    spaced = PIL @ np.diag([1, 3, 1, 1])
    assert row.hd95 == pytest.approx(
        metrics.hd95(detected[:, 1::3], (label > 0)[:, 1::3] & (brain == 1)[:, 1::3], spaced)
    )
    assert row.reference_voxels == (label > 0).sum()
    assert result.metrics.slice_step == 3


def test_no_more_than_the_tally_and_a_coarse_histogram_stays_of_a_subject(folders, monkeypatch):
    predictions, labels, _ = folders
    known = found_in(labels)
    exact = evaluate(predictions, known).metrics.auc
    original, seen, alive = tally.count, [], []

    def count(scores, lesion):
        alive.append(sum(earlier() is not None for earlier in seen))
        seen.append(weakref.ref(scores))
        return original(scores, lesion)

    monkeypatch.setattr(measure.tally, "count", count)
    assert evaluate(predictions, known).metrics.auc == exact
    assert alive == [0, 0, 0, 0]  # the scores of earlier subjects are gone when the next one is counted


def test_missing_unfinished_and_broken_subjects_are_said_and_the_rest_is_written(folders, capsys):
    predictions, labels, output = folders
    write_predictions(predictions, labels, {"sub-99": "ms"})
    sidecar_of(predictions, "sub-01").unlink()
    anomaly = predictions / "sub-02" / "anat" / "sub-02_space-orig_desc-anomaly_T2w.nii.gz"
    anomaly.write_bytes(anomaly.read_bytes()[:-20])
    assert run_evaluation([predictions], str(labels), output) == 3
    failed = json.loads((output / "metrics.json").read_text())["failed"]
    assert set(failed) == {"sub-01", "sub-02", "sub-99"}
    assert "unfinished" in failed["sub-01"]
    assert "holds no reference" in failed["sub-99"]
    printed = capsys.readouterr().err
    assert all(name in printed for name in failed)
    assert "sub-02" in (output / "report.html").read_text()


def test_a_reference_without_prediction_is_missing(folders):
    predictions, labels, _ = folders
    write_labels(labels, {**KINDS, "sub-07": "ms"})
    result = evaluate(predictions, found_in(labels))
    assert "no prediction" in result.metrics.failed["sub-07"]


def test_a_reference_on_another_grid_fails_that_subject(folders):
    predictions, labels, _ = folders
    path = labels / "sub-01" / "anat" / "sub-01_label-lesion_mask.nii.gz"
    images.save(path, subject(0, "glioma")[1], PIL + np.eye(4)[:, [0, 1, 3, 2]] * [[0], [0], [4], [0]])
    result = evaluate(predictions, found_in(labels))
    assert "mm away" in result.metrics.failed["sub-01"]


def test_a_scan_that_was_not_the_restored_one_is_counted(folders):
    predictions, labels, _ = folders
    edit(sidecar_of(predictions, "sub-02"), InputSHA256="0" * 64)
    assert evaluate(predictions, found_in(labels)).metrics.other_scans == 1


def rename(predictions, name: str, new: str) -> None:
    """Gives the prediction of a scan the name that the scan has elsewhere."""
    (predictions / name).rename(predictions / new)
    for path in sorted((predictions / new / "anat").iterdir()):
        path.rename(path.with_name(path.name.replace(name, new, 1)))


def test_a_scan_that_was_restored_under_another_name_is_known_by_its_content(folders, capsys):
    """As a file X_t2.nii.gz of a BraTS folder, of which eval calls the case X."""
    predictions, labels, output = folders
    before = evaluate(predictions, found_in(labels))
    rename(predictions, "sub-02", "sub-x02t2")
    known = found_in(labels)
    after = evaluate(predictions, known)
    assert after.rows == before.rows
    assert after.metrics.failed == {}
    assert after.metrics.restored_as == {"sub-02": "sub-x02t2"}
    assert run_evaluation([predictions], str(labels), output) == 0
    line = "1 scan matched by content, since the names in --labels are others: sub-x02t2 is sub-02"
    assert line in capsys.readouterr().err
    assert line in (output / "table.md").read_text()
    assert line in (output / "report.html").read_text()
    assert "sub-02" in {path.name.partition(".")[0] for path in (output / "viewer").iterdir()}


def test_a_scan_that_two_references_have_is_of_neither(folders):
    predictions, labels, _ = folders
    shutil.copytree(labels / "sub-02", labels / "sub-07")
    for path in (labels / "sub-07" / "anat").iterdir():
        path.rename(path.with_name(path.name.replace("sub-02", "sub-07")))
    rename(predictions, "sub-02", "sub-x")
    failed = evaluate(predictions, found_in(labels)).metrics.failed
    assert failed.keys() == {"sub-02", "sub-07", "sub-x"}
    assert "none of the same scan" in failed["sub-x"]


def test_a_scan_of_another_name_and_content_is_told_first(folders):
    predictions, labels, _ = folders
    for name in KINDS:
        rename(predictions, name, f"sub-x{name[-2:]}")
        edit(sidecar_of(predictions, f"sub-x{name[-2:]}"), InputSHA256=name)
    with pytest.raises(InputError, match=r"could be evaluated \(sub-x01: labels holds no reference of this name"):
        evaluate(predictions, found_in(labels))


def test_nothing_to_evaluate_is_an_error(folders, tmp_path):
    predictions, labels, _ = folders
    with pytest.raises(InputError, match="no subject could be evaluated"):
        evaluate(predictions, references.by_identifier("labels", []))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no sub-\*/anat"):
        evaluate(tmp_path / "empty", found_in(labels))


def test_a_calibration_subject_among_the_test_subjects_is_an_error(folders):
    predictions, labels, output = folders
    leaked = json.loads(sidecar_of(predictions, "sub-03").read_text())["InputSHA256"]
    for name in KINDS:
        edit(sidecar_of(predictions, name), CalibrationSubjects=["e0", leaked])
    with pytest.raises(UsageError, match=r"sub-03 .*calibrate"):
        run_evaluation([predictions], str(labels), output)
    assert not list(output.iterdir())


def test_duplicates_are_errors(folders):
    predictions, labels, _ = folders
    subjects = sources.find(str(labels))
    with pytest.raises(UsageError, match="two references of sub-01"):
        references.by_identifier("labels", [*subjects, subjects[0]])
    same = json.loads(sidecar_of(predictions, "sub-01").read_text())["InputSHA256"]
    edit(sidecar_of(predictions, "sub-02"), InputSHA256=same)
    with pytest.raises(UsageError, match=r"sub-01 and sub-02 .*same scan"):
        evaluate(predictions, found_in(labels))
    edit(sidecar_of(predictions, "sub-02"), InputSHA256="0" * 64)
    anat = predictions / "sub-01" / "anat"
    (anat / "sub-01_run-2_space-orig_desc-anomaly_T2w.nii.gz").touch()
    assert "unfinished" in evaluate(predictions, found_in(labels)).metrics.failed["sub-01_run-2"]


@pytest.mark.parametrize(
    "change", [{"Method": "gmm"}, {"ConfigSHA256": "c1"}, {"Thresholds": {"0.01": 9}}, {"SliceStep": 2}]
)
def test_mixed_experiments_are_an_error(folders, change):
    predictions, labels, _ = folders
    edit(sidecar_of(predictions, "sub-02"), **change)
    with pytest.raises(UsageError, match=f"mixes experiments: {next(iter(change))}"):
        evaluate(predictions, found_in(labels))


@pytest.mark.parametrize(
    "change", [{"Method": "../x"}, {"Score": 3}, {"Thresholds": {"1e-2": 1}}, {"Thresholds": {"0.01": "a"}}]
)
def test_a_sidecar_that_makes_no_sense_fails_its_subject(folders, change):
    predictions, labels, _ = folders
    edit(sidecar_of(predictions, "sub-02"), **change)
    result = evaluate(predictions, found_in(labels))
    assert next(iter(change)).lower() in result.metrics.failed["sub-02"].lower()


def test_several_methods_share_one_report(folders, tmp_path):
    predictions, labels, output = folders
    second = write_predictions(
        tmp_path / "second", labels, Method="intensity", Score="positive", TrainedOn=None, Thresholds={}
    )
    for restored in second.glob("*/anat/*restored*"):
        restored.unlink()
    assert run_evaluation([predictions, second], str(labels), output) == 0
    assert not (output / "metrics.json").exists()
    for name in ("vae_lg_neural_tv", "intensity"):
        assert json.loads((output / name / "metrics.json").read_text())["method"] == name
        assert (output / name / "subjects.tsv").exists()
    page, table = (output / "report.html").read_text(), (output / "table.md").read_text()
    for text in (page, table):
        assert "not stated (intensity)" in text
        assert "vae_lg_neural_tv" in text


def write_methods(tmp_path, labels, *names):
    folders = []
    for index, name in enumerate(names):
        folders.append(write_predictions(tmp_path / f"m{index}", labels, Method=name, **RESTORATION))
    return folders


@pytest.mark.usefixtures("drawn")
def test_methods_stand_in_the_papers_order_and_are_compared(folders, tmp_path):
    _, labels, output = folders
    names = ("intensity", "vae_lg_neural_tv", "gmm", "dae_reconstruction")
    assert run_evaluation(write_methods(tmp_path, labels, *names), str(labels), output, command="as typed") == 0
    record = json.loads((output / "table.json").read_text())
    assert [row["name"] for row in record["rows"]] == ["gmm", "vae_lg_neural_tv", "intensity", "dae_reconstruction"]
    assert record["rows"][0]["dice"]["0.01"]["mean"] > 0
    assert record["provenance"]["command"] == "as typed"
    assert record["device"] == ["cpu"]
    assert "paper" not in record
    (comparison,) = record["comparisons"]
    assert comparison["reference"] == "vae_lg_neural_tv"
    assert [row["method"] for row in comparison["rows"]] == ["gmm", "intensity", "dae_reconstruction"]
    same = {"difference": 0.0, "ci95": [0.0, 0.0], "excludes_zero": False, "p": 1.0, "p_holm": 1.0, "certain": False}
    for row in comparison["rows"]:  # the same images under other names
        assert row["auc"] == row["auprc"] == row["dice"]["0.01"] == same
    assert "Each method minus vae_lg_neural_tv" in (output / "table.md").read_text()


def test_every_reference_of_the_config_is_held_against_all_others(folders, tmp_path):
    _, labels, output = folders
    names = ("gmm", "mirror_tv3d", "vae_lg_neural_tv")
    assert run_evaluation(write_methods(tmp_path, labels, *names), str(labels), output) == 0
    comparisons = json.loads((output / "table.json").read_text())["comparisons"]
    found = {each["reference"]: [row["method"] for row in each["rows"]] for each in comparisons}
    assert found == {"mirror_tv3d": ["gmm", "vae_lg_neural_tv"], "vae_lg_neural_tv": ["gmm", "mirror_tv3d"]}
    page = (output / "report.html").read_text()
    assert page.count("What is better than") == 2
    assert all(set(row["auprc_by_kind"]) == {"glioma", "ms"} for each in comparisons for row in each["rows"])


def test_another_method_can_be_compared(folders, tmp_path):
    _, labels, output = folders
    pair = write_methods(tmp_path, labels, "gmm", "vae_lg_neural_tv")
    run_evaluation(pair, str(labels), output, against="gmm")
    assert [each["reference"] for each in json.loads((output / "table.json").read_text())["comparisons"]] == ["gmm"]
    with pytest.raises(UsageError, match=r"--against=anogan .* gmm, vae_lg_neural_tv"):
        run_evaluation(pair, str(labels), output, against="anogan")


def test_an_output_of_several_methods_is_those_of_each(folders, tmp_path):
    _, labels, _ = folders
    pair = write_methods(tmp_path / "out", labels, "gmm", "vae_lg_neural_tv")
    assert door.predictions(tmp_path / "out") == pair
    assert door.predictions(pair[0]) == pair[:1]
    assert door.predictions(tmp_path / "nothing") == [tmp_path / "nothing"]


def test_methods_beside_scans_in_one_folder_are_evaluated_too(folders, tmp_path, monkeypatch):
    """Of a folder in use, restore advises a folder for another method inside."""
    upper, labels, output = folders
    inner = [write_predictions(upper / name, labels, Method=name) for name in ("gmm", "mirror_tv3d")]
    assert door.predictions(upper) == [upper, *inner]
    monkeypatch.chdir(tmp_path)
    assert typed(monkeypatch, f"--predictions={upper}", f"--labels={labels}", f"--output={output}") == 0
    rows = json.loads((output / "table.json").read_text())["rows"]
    assert {row["name"] for row in rows} == {"vae_lg_neural_tv", "gmm", "mirror_tv3d"}


def test_every_system_of_the_papers_table_belongs_to_one_config():
    rows = {name: restore.rows(common.experiment(name, name, f"{name}_reconstruction")) for name in models.MODELS}
    papers = [entry.method for entry in published.TABLE1]
    added = [name for model in models.MODELS for name in restore.ADDED_ROWS.get(model, ())]
    assert sorted(itertools.chain(*rows.values())) == sorted(["intensity", "dae_reconstruction", *papers, *added])
    without = restore.rows(common.untrained("detection", "mirror_tv3d"))
    assert without == ["intensity_tv3d", "mirror_tv3d"]
    for model, own in (*rows.items(), ("none", without)):
        assert {methods.parse(name).model for name in own} <= {"", model}
    assert rows["vae"][:2] == ["intensity", "gmm"]
    assert rows["aae"] == ["aae_reconstruction", "aae_lg_neural_tv"]


def test_the_papers_table_is_appended_under_names_of_its_own(folders):
    predictions, labels, output = folders
    assert run_evaluation([predictions], str(labels), output, with_paper=True) == 0
    names = {path.name for path in output.iterdir()}
    assert names == {"metrics.json", "subjects.tsv", "table1.md", "table1.json", "table1.html", "viewer"}
    assert published.HEADING in (output / "table1.md").read_text()
    record = json.loads((output / "table1.json").read_text())
    assert len(record["rows"]) == 1
    assert record["comparisons"] == []
    assert len(record["paper"]["rows"]) == 11
    assert record["paper"]["rows"][9]["dice"]["0.01"] == [0.448, 0.209]
    assert 'class="foreign"' in (output / "table1.html").read_text()


def test_an_output_that_cannot_be_written_is_noticed_before_the_work(folders, monkeypatch):
    predictions, labels, output = folders
    output.write_text("a file where the folder should be")
    monkeypatch.setattr(write, "evaluate", lambda *_: pytest.fail("computed first"))
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        run_evaluation([predictions], str(labels), output)


def test_one_method_twice_is_told_apart_by_folder(folders, tmp_path):
    predictions, labels, output = folders
    again = write_predictions(tmp_path / "again", labels)
    run_evaluation([predictions, again], str(labels), output)
    assert {path.parent.name for path in output.glob("*/metrics.json")} == {
        "vae_lg_neural_tv-restored",
        "vae_lg_neural_tv-again",
    }


def test_the_viewer_lists_lights_and_warnings(folders):
    predictions, labels, output = folders
    likeness = {"light": "red", "reasons": ["tilt 24 degrees"], "measures": {}}
    edit(sidecar_of(predictions, "sub-02"), Quality=likeness, Warnings=["the qform is invalid"])
    run_evaluation([predictions], str(labels), output)
    listed = (output / "viewer" / "index.html").read_text()
    (row,) = [row for row in listed.split("<tr>") if "red</td>" in row]
    assert '"sub-02.html"' in row
    assert '<td class="number">1</td>' in row
    page = (output / "viewer" / "sub-02.html").read_text()
    assert "<li>tilt 24 degrees</li>" in page
    assert "<li>the qform is invalid</li>" in page


@pytest.mark.usefixtures("drawn")
def test_pictures_are_radiological(folders):
    predictions, labels, _ = folders
    (first, *_) = sources.find(str(labels))
    found = write.read_predictions(predictions)[0]["sub-01"]
    panels = write.picture(found, first)
    # Array axes run to posterior, inferior, left: rows are axis 0, columns axis 2, as they are.
    _, label, score = subject(0, "glioma")
    most = (label > 0).sum(axis=(0, 2))
    index = max(np.flatnonzero(most == most.max()))  # the lowest slice of S is the last of this array
    np.testing.assert_array_equal(panels.reference, (label > 0)[:, index])
    np.testing.assert_allclose(panels.anomaly, score[:, index])
    assert panels.aspect == pytest.approx(2 / 1.5)
    assert pictures.subject_figure({"a": panels, "b": panels._replace(restored=None, detected=None)})


def typed(monkeypatch, *words) -> int:
    """Runs `eval` as it is typed, in this process."""
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(sys, "argv", ["eval", *words])
    return door.main(parse.parse("eval", sys.argv, values))


def test_main_checks_its_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no predictions"):
        typed(monkeypatch)
    with pytest.raises(UsageError, match=r"unexpected word 'x'.*--predictions=x"):
        typed(monkeypatch, "x")
    with pytest.raises(UsageError, match="nowhere is no folder"):
        typed(monkeypatch, "--predictions=nowhere")


def test_main_finds_the_newest_predictions_and_its_config_from_anywhere(folders, tmp_path, monkeypatch):
    predictions, labels, _ = folders
    monkeypatch.chdir(tmp_path)
    (predictions / "dataset_description.json").write_text("{}")
    (tmp_path / "runs" / "vae").mkdir(parents=True)
    predictions.rename(tmp_path / "runs" / "vae" / "restored")
    assert typed(monkeypatch, f"--labels={labels}", "--config.least_subjects=3") == 0
    assert (tmp_path / "runs" / "vae" / "evaluation" / "report.html").exists()
    found = json.loads((tmp_path / "runs" / "vae" / "evaluation" / "metrics.json").read_text())
    assert found["settings"] == {
        "connectivity": 26,
        "lesion_share": 0.1,
        "detection_share": 0.3,
        "least_subjects": 3,
        "references": ["mirror_tv3d", "vae_lg_neural_tv"],
        "family_error": 0.05,
    }
    assert found["dice"]["0.01"]["ci95"]
    assert found["groups"]["glioma"]["reasons"]["dice/0.01/ci95"] == "fewer than 3 subjects"


def test_without_labels_the_input_of_restore_is_taken_or_nothing(folders, tmp_path, monkeypatch, capsys):
    predictions, labels, _ = folders
    place = f"--predictions={predictions}"
    with pytest.raises(UsageError, match=r"does not say which scans were restored.*--labels=FOLDER"):
        typed(monkeypatch, place)
    runs.write(predictions, [str(labels)])
    assert typed(monkeypatch, place, f"--output={tmp_path / 'E'}") == 0
    said = capsys.readouterr().out
    assert re.match(rf"predictions: .*; references: {labels} \(restore's input; --labels names others\)\n", said)
    assert said.index("Measured on") > 0
    runs.write(predictions, ["phantom:test:1"])
    with pytest.raises(UsageError, match="notes several inputs"):
        typed(monkeypatch, place)
    (predictions / "run.json").unlink()
    runs.write(predictions, [str(tmp_path / "gone")])
    with pytest.raises(UsageError, match="which is no folder"):
        typed(monkeypatch, place)


def test_results_do_not_go_among_the_references(folders, monkeypatch):
    predictions, labels, _ = folders
    before = sorted(labels.rglob("*"))
    for output in (labels, labels / "x" / ".."):
        with pytest.raises(UsageError, match="is the folder of the references"):
            typed(monkeypatch, f"--predictions={predictions}", f"--labels={labels}", f"--output={output}")
    assert sorted(labels.rglob("*")) == before


@pytest.mark.parametrize("name", ["a,b", "a b", "a, b", "x,y,z", "a"])
def test_folders_of_predictions_may_have_commas_and_spaces(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / "other").mkdir()
    found = [pathlib.Path(name), pathlib.Path("other"), pathlib.Path("gone")]
    assert door.split(f"{name},other,gone") == found
    assert door.split(name) == found[:1]
    assert door.split(f"other, {name}") == [found[1], found[0]]


def test_a_training_subject_among_the_tested_is_an_error(folders):
    predictions, labels, output = folders
    edit(sidecar_of(predictions, "sub-01"), UsedInTraining=True)
    with pytest.raises(UsageError, match=r"sub-01 .*served to train"):
        run_evaluation([predictions], str(labels), output)


def test_a_method_that_left_nothing_does_not_cost_the_table(folders, tmp_path, capsys):
    predictions, labels, output = folders
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.mkdir()
    assert run_evaluation([missing, predictions, empty], str(labels), output) == 3
    assert (output / "table.md").exists()
    said = capsys.readouterr().err
    assert all(f"{path} holds no sub-*/anat" in said.replace(":", "") for path in (missing, empty))

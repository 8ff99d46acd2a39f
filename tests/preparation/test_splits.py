"""Who trains, who calibrates, who tests: people are never split, the ill never train, and a table says so before."""

import types

import pytest

from lgjax.preparation import audit, splits
from lgjax.preparation.audit import Row
from lgjax.runtime.errors import UsageError

BY_SPLIT = {  # persons whom the hash takes there
    split: [name for name in (f"sub-{number}" for number in range(60)) if splits.by_person(name) == split]
    for split in splits.SHARES
}


def one(name, person="", kind=""):
    return types.SimpleNamespace(
        identifier=name, original=name.removeprefix("sub-"), participant=person or name, kind=kind
    )


def test_the_shares_are_those_of_a_hash_of_the_person():
    found = [splits.by_person(f"sub-{number}") for number in range(2000)]
    for split, share in splits.SHARES.items():
        assert found.count(split) / 2000 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("kind", ["glioma", "ms", "patient", "other"])
def test_the_ill_are_in_no_split_but_test(kind):
    subjects = [one(name, kind=kind) for names in BY_SPLIT.values() for name in names]
    assert set(splits.assign(subjects).values()) == {"test"}


@pytest.mark.parametrize("kind", ["", "healthy"])
def test_a_person_of_whom_one_scan_is_ill_trains_with_none(kind):
    """A table may say of each scan what it shows: a healthy visit before the tumour."""
    person = BY_SPLIT["train"][0]
    subjects = [one("sub-v1", person, kind), one("sub-v2", person, "glioma"), one(BY_SPLIT["train"][1], kind=kind)]
    assert list(splits.assign(subjects).values()) == ["test", "test", "train"]


@pytest.mark.parametrize("kind", ["", "n/a", "healthy", "control"])
def test_the_healthy_go_where_the_hash_takes_them(kind):
    subjects = [one(name, kind=kind) for names in BY_SPLIT.values() for name in names]
    assert splits.assign(subjects) == {name: split for split, names in BY_SPLIT.items() for name in names}


@pytest.mark.parametrize("named", ["sub-v1", "v1", "sub-ann", "ann"])
def test_whom_the_user_names_calibrates_with_all_scans_and_nobody_else_does(named):
    other = BY_SPLIT["calibration"][0]
    subjects = [one("sub-v1", "sub-ann"), one("sub-v2", "sub-ann"), one(other), *map(one, BY_SPLIT["test"])]
    found = splits.assign(subjects, [named])
    assert (found["sub-v1"], found["sub-v2"], found[other]) == ("calibration", "calibration", "train")
    assert {found[name] for name in BY_SPLIT["test"]} == {"test"}


@pytest.mark.parametrize(
    ("named", "message"), [("nobody", "no such subject among sub-x, sub-y"), ("x", "sub-x is glioma")]
)
def test_nobody_and_nobody_ill_is_calibrated_on(named, message):
    with pytest.raises(UsageError, match=message):
        splits.assign([one("sub-x", kind="glioma"), one("sub-y")], [named])


def test_the_table_before_the_work():
    rows = [
        *(Row(f"sub-{n}", f"sub-{n}", "train") for n in range(7)),
        *(Row(f"sub-v{n}", "sub-v", "train") for n in range(2)),
        *(Row(f"sub-c{n}", f"sub-c{n}", "calibration", kept=True) for n in range(2)),
        Row("sub-t", "sub-t", "test", "healthy"),
        *(Row(f"sub-g{n}", f"sub-g{n}", "test", "glioma") for n in range(3)),
    ]
    assert audit.text(rows) == (
        "train 9 (persons: 8), calibration 2, test 1; 3 left out, in no split but test: sub-g0 (glioma), "
        "sub-g1 (glioma), sub-g2 (glioma); 2 in the folder that --input does not have stay\n"
        "persons with several scans, each in one split: 1: sub-v (sub-v0, sub-v1)"
    )
    assert audit.text(rows[:7]) == "train 7, calibration 0, test 0"
    assert audit.training(rows, []) == "train 9 (persons: 8), calibration 2"
    assert audit.training(rows, ["sub-g (ms)"]).endswith("calibration 2; 1 left out, in no split but test: sub-g (ms)")
    assert audit.patients(rows[:3]) == "test 3: prepared as another cohort, for no training"
    assert audit.listed([str(n) for n in range(9)]) == "0, 1, 2, 3, 4, 5 and 3 more"


@pytest.mark.parametrize(
    ("found", "missing"),
    [
        ("train calibration", []),
        ("train test", ["calibration"]),
        ("calibration", ["train"]),
        ("test", ["train", "calibration"]),
        ("", ["train", "calibration"]),
    ],
)
def test_an_empty_split_is_told_at_once(found, missing):
    said = audit.warnings([Row(split, split, split) for split in found.split()])
    assert [line.split()[5] for line in said] == missing
    assert all("Give more subjects" in line for line in said)


def test_whom_to_calibrate_on_is_proposed():
    rows = [Row(f"sub-{n:02d}b", f"sub-{n:02d}", "train") for n in range(25)]
    (said,) = audit.warnings(rows)
    assert said.endswith("or name some to calibrate on: --calibration=sub-23,sub-24.")
    (said,) = audit.warnings([row._replace(person="sub-one") for row in rows])  # who cannot do both
    assert said.endswith("Give more subjects.")


def test_people_with_a_segmentation_beside_their_scan_are_told():
    """No label is read; but a patient may stand among the healthy."""
    rows = [
        Row("sub-a", "sub-a", "train", marked=True),
        Row("sub-b", "sub-b", "calibration", marked=True),
        Row("sub-c", "sub-c", "train", "healthy", marked=True),  # an empty one, then
        Row("sub-d", "sub-d", "test", "ms", marked=True),
    ]
    (said,) = audit.warnings(rows)
    assert said.startswith("warning: 2 to train on have a segmentation of a lesion beside them: sub-a, sub-b. Are they")
    assert audit.warnings([row._replace(marked=False) for row in rows]) == []


def test_names_that_may_be_of_one_person_are_told():
    rows = [Row("sub-HC0071", "sub-HC0071", "train"), Row("sub-HC0072", "sub-HC0072", "calibration")]
    (said,) = audit.warnings(rows, ["HC007_1", "HC007_2"])
    assert said.startswith("warning: taken for different persons: HC007 (HC007_1, HC007_2). If they are scans of one")
    assert audit.warnings(rows) == []


def test_what_an_earlier_version_prepared_is_not_trained_on_where_it_is_wrong():
    rows = [Row("sub-a", "sub-a", "train"), Row("sub-b", "sub-b", "calibration", "healthy")]
    audit.check("P", rows)
    with pytest.raises(UsageError, match=r"P has 1 subjects to train on who are not healthy: sub-c \(ms\)"):
        audit.check("P", [*rows, Row("sub-c", "sub-c", "train", "ms")])
    with pytest.raises(UsageError, match="scans of one person to train on and to calibrate on: sub-b"):
        audit.check("P", [*rows, Row("sub-b2", "sub-b", "train")])

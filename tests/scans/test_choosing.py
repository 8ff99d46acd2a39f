"""Which scans a BIDS-App takes, against PyBIDS on the same files."""

import json

import images
import pytest
from bids import BIDSLayout
from bids.layout import Query

from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import names, sources
from lgjax.scans.finding import choosing
from lgjax.scans.finding.choosing import Wanted
from lgjax.scans.sources import Reading

SCANS = (
    "sub-A1/ses-01/anat/sub-A1_ses-01_run-01_T2w",
    "sub-A1/ses-02/anat/sub-A1_ses-02_run-1_T2w",
    "sub-A1/ses-02/anat/sub-A1_ses-02_run-2_T2w",
    "sub-b/anat/sub-b_acq-tse_T2w",
    "sub-b/anat/sub-b_acq-space_rec-norm_T2w",
    "sub-d/ses-01/anat/sub-d_ses-01_echo-2_T2w",
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choosing") / "raw"
    for name in SCANS:
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "sub-only1" / "anat").mkdir(parents=True)
    images.save(folder / "sub-only1" / "anat" / "sub-only1_T1w.nii.gz", images.head())
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "raw", "BIDSVersion": "1.10.0"}))
    return folder


def chosen(raw, wanted: Wanted) -> set[str]:
    listing = sources.survey(str(raw), Reading())
    return {subject.identifier for subject in choosing.choose(raw, listing, wanted).found}


@pytest.fixture(scope="module")
def layout(raw):
    return BIDSLayout(raw, validate=False)


FILTERS = (
    {"session": "01"},
    {"session": ["01", "02"], "run": 1},
    {"run": "1"},
    {"run": [1, 2]},
    {"acquisition": "tse", "suffix": "T2w", "datatype": "anat"},
    {"acquisition": None},
    {"session": "*"},
    {"session": None, "reconstruction": "*"},
    {"echo": 2},
    {"subject": ["A1", "d"], "session": "01"},
)


@pytest.mark.parametrize("wanted", FILTERS, ids=lambda wanted: "+".join(wanted))
def test_a_filter_chooses_what_pybids_does(raw, layout, tmp_path, wanted):
    """But for run "1" as text, which PyBIDS takes as a number too."""
    path = tmp_path / "filter.json"
    path.write_text(json.dumps({"t2w": wanted}))
    query = {
        name: {None: Query.NONE, "*": Query.ANY}.get(value, value) if not isinstance(value, list) else value
        for name, value in wanted.items()
    }
    found = layout.get(**{"suffix": "T2w", "extension": ".nii.gz", **query})
    expected = {names.identifier(file.filename.removesuffix(".nii.gz")) for file in found}
    assert expected
    assert chosen(raw, Wanted(entities=choosing.read_filter(path))) == expected


def test_labels_choose_participants_and_sessions(raw):
    assert chosen(raw, Wanted()) == {names.identifier(name.rpartition("/")[2]) for name in SCANS}
    assert chosen(raw, Wanted(["b", "d"])) == {"sub-b_acq-tse", "sub-b_acq-space_rec-norm", "sub-d_ses-01_echo-2"}
    assert chosen(raw, Wanted(sessions=["01"])) == {"sub-A1_ses-01_run-01", "sub-d_ses-01_echo-2"}
    assert chosen(raw, Wanted(["A1"], ["02"], {"run": [2]})) == {"sub-A1_ses-02_run-2"}


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (Wanted(["A1", "x"]), r"participant-label x: there is no such participant\. There are A1, b, d, only1\."),
        (Wanted(["A1"], ["03"]), r"session-label 03: there is no such session\. There are 01, 02\."),
        (Wanted(["b"], ["01"]), r"session-label 01: there is no such session\. There are none\."),
        (Wanted(["only1"]), "holds no T2w scan of sub-only1"),
        (Wanted(entities={"session": ["01"], "run": [3]}), r"none of 6 scans.*session 01, 02; run 01, 1, 2"),
    ],
)
def test_what_is_asked_for_and_not_there_is_told(raw, wanted, told):
    with pytest.raises(UsageError, match=told):
        chosen(raw, wanted)


@pytest.mark.parametrize(
    ("content", "fault", "told"),
    [
        ('{"t2w": {"sesion": "01"}}', UsageError, "no entity 'sesion'"),
        ('{"t1w": {"session": "01"}}', UsageError, "no query 't1w'"),
        ('{"t2w": {"run": {"a": 1}}}', UsageError, "run is"),
        ('{"t2w": {"run": true}}', UsageError, "run is true"),
        ('["t2w"]', UsageError, "expected"),
        ("{", InputError, "is no JSON"),
        (None, InputError, "does not exist"),
    ],
)
def test_a_wrong_filter_is_refused_by_name(tmp_path, content, fault, told):
    path = tmp_path / "f.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(fault, match=told):
        choosing.read_filter(path)

"""Nothing that is written names the patient, the user, the machine or one of its folders: all files are searched."""

import base64
import getpass
import gzip
import json
import os
import pathlib
import re
import shutil
import socket

import derived
import images
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT
from tensorboardX.proto.event_pb2 import Event

from configs import eval as eval_config
from lgjax import train
from lgjax.derivatives import sidecar
from lgjax.evaluation import references, settings
from lgjax.preparation import recipe
from lgjax.report import page, write
from lgjax.runtime import devices, places
from lgjax.runtime.errors import UsageError
from lgjax.scans import nifti, sources
from lgjax.scans.finding import listing
from lgjax.training.log import Log
from lgjax.training.scalars import Scalars
from lgjax.workdir import calibrations, checkpoints, experiment
from lgjax.workdir.calibrations import Calibration

TEXTS = {  # of the header, as converters leave them
    "descrip": b"DOE^JANE 19700101 TE=95",
    "aux_file": b"MRN 0012345",
    "db_name": b"DOE_JANE",
    "intent_name": b"DOE JANE",
    "data_type": b"DOEJANE",
}
FORBIDDEN = (b"DOE", b"JANE", b"0012345", b"janedoe", b"ward7host", b"elsewhere")


def with_texts(path: pathlib.Path, seed: int, cls=nib.Nifti1Image) -> pathlib.Path:
    """Writes a scan whose header names the patient wherever there is room, in an extension too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = cls(derived.brain(seed), derived.GRID)
    for field, text in TEXTS.items():
        if field in image.header:
            image.header[field] = text
    image.header["intent_code"], image.header["cal_max"] = 1001, 0.19700101
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"PatientName=DOE^JANE"))
    nib.save(image, path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of a user's, on a machine that has a name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOGNAME", "janedoe")
        patch.setattr(socket, "gethostname", lambda: "ward7host")
        assert getpass.getuser() == "janedoe"
        yield tmp_path_factory.mktemp("elsewhere") / "janedoe"


@pytest.fixture(scope="module")
def scans(place):
    """Scans of four kinds of file, one of them damaged, a misfit mask, references of which one is no segmentation."""
    folder = place / "my scans"
    for number, (name, cls) in enumerate({"a": nib.Nifti1Image, "b": nib.Nifti2Image, "c": nib.Nifti1Image}.items()):
        with_texts(folder / f"{name}.nii.gz", number, cls)
        lesion = np.zeros((20, 24, 6), np.uint8)
        lesion[12:15, 12:15, 2:4] = 1
        images.save(folder / f"{name}_seg.nii.gz", lesion, derived.GRID if name != "b" else 2 * derived.GRID)
    images.save(folder / "a_mask.nii.gz", np.ones((3, 3, 3), np.uint8))
    return folder


def written(folder: pathlib.Path) -> dict[str, bytes]:
    """The content of every file, unpacked, by its path in the folder."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: unpacked(name, data) for name, data in found.items()}


def unpacked(name: str, data: bytes) -> bytes:
    """The content of a file; of a viewer's page its text and its volumes, without the program that all pages hold."""
    if name.endswith(".gz"):
        return gzip.decompress(data)
    if not name.startswith("viewer/"):
        return data
    program = (ROOT / "lgjax" / "report" / "vendor" / "niivue.umd.js").read_bytes()
    volume = re.compile(rb"(?<=>)[A-Za-z0-9+/=]{64,}(?=</script>)")
    return volume.sub(lambda match: gzip.decompress(base64.b64decode(match[0])), data.replace(program, b""))


def told(folder: pathlib.Path) -> list[str]:
    """Which files say, or are called, what nobody should read."""
    found = written(folder)
    assert found
    forbidden = (*FORBIDDEN, str(folder.parent).encode(), str(pathlib.Path.cwd()).encode())
    return [f"{name}: {text!r}" for name, data in found.items() for text in forbidden if text in name.encode() + data]


@pytest.fixture(scope="module")
def restored(scans, place):
    assert derived.restore(scans, place / "restored") == ["sub-a", "sub-b", "sub-c"]
    return place / "restored"


def test_restored_scans(restored):
    assert told(restored) == []
    (note,) = json.loads(sidecar.file(restored, "sub-a", sidecar.ANOMALY, "json").read_text())["Warnings"]
    assert "a_mask.nii.gz" in note


def test_outputs_keep_the_geometry_alone(restored, scans):
    for identifier in ("sub-a", "sub-b"):
        source = nib.load(scans / f"{identifier[4:]}.nii.gz").header
        found = nib.load(sidecar.file(restored, identifier, sidecar.ANOMALY)).header
        kept = set(nifti._GEOMETRY)
        for field in source:
            if field in kept:
                np.testing.assert_array_equal(found[field], source[field], field)
        plain = type(found)()
        changed = {field for field in found if found[field].tobytes() != plain[field].tobytes()}
        assert changed - kept <= {"datatype", "bitpix", "scl_slope", "scl_inter"}
        assert not found.extensions


def test_one_scan_by_its_path(scans, place):
    (subject,) = sources.find(str(scans / "c.nii.gz"))
    derived.detector()(subject).save(place / "one")
    assert told(place / "one") == []
    assert b'"bids:raw:c.nii.gz"' in written(place / "one")["sub-c/anat/sub-c_space-orig_desc-anomaly_T2w.json"]


def test_prepared_scans_and_the_list_of_those_that_failed(scans, place, monkeypatch):
    folder = place / "some scans"
    folder.mkdir()
    for name in ("a", "b"):
        shutil.copy(scans / f"{name}.nii.gz", folder)
    (folder / "damaged.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes()[:500])
    images.save(folder / "b_mask.nii.gz", np.ones((3, 3, 3), np.uint8))
    assert derived.prepare(folder, place / "prepared", monkeypatch) == 3
    page = written(place / "prepared")["qc.html"]
    assert b"truncated" in page
    assert told(place / "prepared") == []


def test_what_was_left_out(place):
    (place / "left").mkdir()
    others = ("/data/janedoe/x.nii.gz", "is the same as /data/janedoe/y.nii.gz"), ("sub-1/anat/z.nii", "T1 by its name")
    listing.record(place / "left", listing.Listing([], tuple(listing.LeftOut(*other) for other in others)))
    assert told(place / "left") == []
    rows = (place / "left" / "left_out.tsv").read_text().splitlines()[1:]
    assert rows == ["x.nii.gz\tis the same as y.nii.gz", "sub-1/anat/z.nii\tT1 by its name"]


@pytest.mark.parametrize("several", [False, True])
def test_an_evaluation_and_what_failed_in_it(restored, scans, place, several, monkeypatch):
    monkeypatch.setattr(write, "_pictures", lambda *_: [])  # seconds, and no words
    monkeypatch.setattr(page, "_charts", lambda *_: {})
    folders = [restored]
    if several:
        folders.append(place / "second")
        shutil.copytree(restored, folders[-1])
    output = place / f"evaluation{several}"
    words = ["lgjax.eval", f"--predictions={restored}", f"--labels={scans}", f"--output={output}"]
    judging = settings.from_config(eval_config.get_config())
    found = write.run_evaluation(folders, references.find(str(scans)), output, judging, command=places.command(words))
    assert len(found.failures) == len(folders)  # the reference of b lies elsewhere
    assert told(output) == []


def test_the_records_of_a_work_directory(place, config, monkeypatch):
    workdir = place / "runs" / "mine"
    config.data.source = str(place / "prepared" / "mine")
    experiment.record(config, workdir)
    assert experiment.get_config(str(workdir / "config.json")).data.source == config.data.source
    experiment.record(config, workdir)  # the same experiment still
    prepared = recipe.bare(experiment.grid(config))
    about = train.trained_on(config, prepared, ["s"], ["h"], 3)
    assert "mine" in about["TrainedOn"]
    monkeypatch.setattr(train.checkpoints, "weights_digest", lambda *_: "w")
    train.record(config, workdir, prepared, about)
    found = Calibration("intensity", None, None, 1, {}, [], "c", "w", "r", about["TrainedOn"], devices.versions())
    calibrations.write(workdir, found)
    checkpoints.save(workdir / "checkpoints", 1, {"a": jnp.zeros(3)}, 0.5)
    log = Log(workdir, 0)
    log.write(1, [{"loss": jnp.ones(())}], 0.1, {"loss": 2.0})
    log.close()
    assert list((workdir / "tensorboard").iterdir())
    assert told(workdir) == []


@pytest.mark.parametrize(
    "source",
    ["/scratch/janedoe/p", "~/p", "../p", "prepared/mine", "phantom", "phantom:/scratch/janedoe/heads", "phantom@5+1"],
)
def test_a_source_is_found_again(config, tmp_path, source):
    config.data.source = source
    experiment.record(config, tmp_path / "w")
    text = (tmp_path / "w" / "config.json").read_text()
    assert "janedoe" not in text
    assert os.path.expanduser("~") + "/" not in text
    name, _, path = source.rpartition(":")
    whole = os.path.abspath(os.path.expanduser(path))
    expected = (name and f"{name}:") + (whole if path[0] in "/~." else path)
    assert experiment.get_config(str(tmp_path / "w" / "config.json")).data.source == expected
    experiment.record(config, tmp_path / "w")
    config.data.source = "another"
    with pytest.raises(UsageError, match=r"data\.source"):
        experiment.record(config, tmp_path / "w")


def test_scalars_are_what_tensorboard_reads(tmp_path):
    board = Scalars(tmp_path, 4)
    board.add("loss", 0.5, 5)
    board.add("validation/loss", 1.5, 5)
    board.close()
    (path,) = tmp_path.iterdir()
    data, events = path.read_bytes(), []
    while data:  # length, its checksum, the event, its checksum
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].session_log.status) == (4, 1)  # start: what came after is forgotten
    values = {value.tag: value.simple_value for event in events[2:] for value in event.summary.value}
    assert values == {"loss": 0.5, "validation/loss": 1.5}

"""Tables that say which file is what: how they are saved, and what is wrong with them."""

import images
import numpy as np
import pytest

from lgjax.evaluation import references
from lgjax.preparation import pipeline
from lgjax.preparation.recipe import Recipe
from lgjax.preparation.slices import Grid
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import memory, sources
from lgjax.scans.finding import subject_table

HEAD = ("participant_id", "image", "mask", "reference", "lesion_kind", "person")
LINE = ("01", "a/T2.nii", "a/brain.nii", "../seg.nii", "glioma", "Jane 1")


SCAN = images.head()
INSIDE = (SCAN > 0).astype(np.uint8)
LESION = (SCAN > 140).astype(np.uint8)


def written(path, *lines, separator="\t", end="\n", encoding="utf-8"):
    path.write_bytes("".join(separator.join(line) + end for line in lines).encode(encoding))
    return path


@pytest.mark.parametrize("name", ["t.tsv", "t.CSV", "t.txt"])
@pytest.mark.parametrize("separator", ["\t", ",", ";"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_all_ways_to_save_a_table(tmp_path, name, separator, end, encoding):
    path = written(tmp_path / name, HEAD, LINE, separator=separator, end=end, encoding=encoding)
    assert subject_table.is_table(str(path))
    found = subject_table.read(path)
    image, mask, reference = (tmp_path / part for part in LINE[1:4])
    assert found.rows == [subject_table.Row("01", image, mask, reference, "glioma", "Jane 1", "")]
    assert (found.columns, found.notes) == (HEAD, ())


def test_paths_may_be_absolute_quoted_or_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cells = [("1", f'"{tmp_path}/x, y.nii"'), ("2", "~/z.nii"), ("3", "Größe 患者.nii")]
    found = subject_table.read(written(tmp_path / "t.csv", HEAD[:2], *cells, separator=","))
    expected = [tmp_path / "x, y.nii", tmp_path / "home/z.nii", tmp_path / "Größe 患者.nii"]
    assert [row.image for row in found.rows] == expected


def test_empty_cells_and_columns_in_any_order_and_case(tmp_path):
    path = written(
        tmp_path / "t.tsv", ("Image ", "age", "PARTICIPANT_ID", "mask"), ("a.nii", "3", "x", "n/a"), ("b", "", "y")
    )
    first, second = subject_table.read(path).rows
    assert (first.name, first.image, first.mask, first.refused) == ("x", tmp_path / "a.nii", None, "")
    assert (second.name, second.mask, second.refused) == ("y", None, "")
    assert subject_table.read(path).notes == ("t.tsv: columns not used: age",)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (("", "a.nii"), "line 3 of t.tsv has no participant_id"),
        (("x", ""), "line 3 of t.tsv has no image"),
        (("x", "N/A"), "line 3 of t.tsv has no image"),
        (("x",), "line 3 of t.tsv has no image"),
        (("", "", "m.nii"), "line 3 of t.tsv has no participant_id and no image"),
        (("x", "a.nii", "", "stray"), "line 3 of t.tsv has 4 cells for 3 columns"),
    ],
)
def test_a_line_that_is_wrong_is_refused_alone(tmp_path, line, told):
    path = written(tmp_path / "t.tsv", HEAD[:3], ("ok", "b.nii", ""), line, ("", "", ""), ("too", "c.nii"))
    found = subject_table.read(path).rows
    assert [row.refused for row in found] == ["", told, ""]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has no column participant_id and no column image. It is empty; known are participant_id, image, mask"),
        (b"subject\tT2\n1\ta\n", "It has subject, t2; known are participant_id, image"),
        (b"participant_id image\n1 a\n", "It has participant_id image; known"),
        (b"participant_id\timage\n", "lists no scan"),
        (b"participant_id\timage\timage\n1\ta\tb\n", "has the column image twice"),
        ("participant_id\timage\n1\tZürich.nii\n".encode("latin-1"), "Save it as UTF-8"),
        ("participant_id\timage\n1\ta\n".encode("utf-16"), "Save it as UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_says_in_one_line_what_it_has(tmp_path, content, told):
    path = tmp_path / "t.tsv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=told) as error:
        subject_table.read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["t.xlsx", "t.XLS", "t.ods"])
def test_a_spreadsheet_is_to_be_saved_as_text(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\3\4")
    with pytest.raises(UsageError, match=r"is a spreadsheet\. Save it as text with tabs"):
        sources.find(str(tmp_path / name))


def test_two_lines_of_one_subject_fail_together(hospital, tmp_path):
    lines = [("a", "scans/p1/T2.nii.gz"), ("sub-a", "scans/p2/T2.nii.gz"), ("b", "scans/p2/T2.nii.gz")]
    first, second = sources.find(str(written(tmp_path / "twice.tsv", HEAD[:2], *lines)))
    assert (first.identifier, second.identifier) == ("sub-a", "sub-b")
    with pytest.raises(InputError, match=r"p1/T2\.nii\.gz.*p2/T2\.nii\.gz"):
        first.image()
    assert second.image().data.any()


def test_a_folder_is_no_table(tmp_path):
    (tmp_path / "x.tsv").mkdir()
    assert not subject_table.is_table(str(tmp_path / "x.tsv"))
    assert not subject_table.is_table("scan.nii.gz")


@pytest.fixture
def hospital(tmp_path):
    """Two patients whose scans have one name, with masks and references elsewhere; a line that is wrong."""
    for number, patient in enumerate(("p1", "p2")):
        images.save(tmp_path / f"scans/{patient}/T2.nii.gz", SCAN + number * INSIDE)
        images.save(tmp_path / f"drawn/{patient}.nii.gz", LESION)
    images.save(tmp_path / "scans/p1/brain.nii.gz", INSIDE)
    lines = [
        ("p1", "scans/p1/T2.nii.gz", "scans/p1/brain.nii.gz", "drawn/p1.nii.gz", "glioma", "Jane"),
        ("sub-p2_ses-2", "scans/p2/T2.nii.gz", "", "", "healthy", "Jane"),
        ("p3", "scans/p3/T2.nii.gz", "", "", "", ""),
        ("p4", "", "", "", "", ""),
    ]
    return written(tmp_path / "study.tsv", HEAD, *lines)


def test_a_table_names_scans_masks_references_and_people(hospital):
    found = {subject.original: subject for subject in sources.find(str(hospital))}
    first, second = found["p1"], found["sub-p2_ses-2"]
    assert (first.identifier, first.kind, first.participant) == ("sub-p1", "glioma", second.participant)
    assert first.source == "bids:raw:scans/p1/T2.nii.gz"
    np.testing.assert_array_equal(first.mask().data, INSIDE)
    assert second.mask is None
    assert not first.mask_found
    reference = references.read(first, first.image())
    np.testing.assert_array_equal(reference.lesion, LESION > 0)
    assert references.relative(str(hospital), reference.source) == "drawn/p1.nii.gz"
    assert not references.read(second, second.image()).lesion.any()


@pytest.mark.parametrize(
    ("name", "told"), [("p3", "T2.nii.gz"), ("p4", "p4: line 5 of study.tsv has no image. Correct")]
)
def test_what_a_table_says_wrongly_fails_alone(hospital, name, told):
    (subject,) = [subject for subject in sources.find(str(hospital)) if subject.original == name]
    with pytest.raises(InputError, match=told):
        pipeline.correct(subject, Recipe(Grid(16, 16, 2.0), None, None, "none"))


def test_a_mask_that_a_table_names_is_refused_where_it_does_not_fit(hospital, tmp_path):
    images.save(tmp_path / "scans/p1/brain.nii.gz", 0 * INSIDE)
    first = sources.find(str(hospital))[0]
    with pytest.raises(InputError, match=r"brain\.nii\.gz: has a brain of 0 ml"):
        pipeline.correct(first, Recipe(Grid(16, 16, 2.0), None, None, "none"))


def test_what_has_no_column_is_found_by_names(hospital, tmp_path):
    images.save(tmp_path / "scans/p1/T2_mask.nii.gz", INSIDE)
    images.save(tmp_path / "scans/p1/lesion_mask.nii.gz", LESION)
    path = written(tmp_path / "short.csv", HEAD[:2], ("p1", "scans/p1/T2.nii.gz"), separator=",")
    (subject,) = sources.find(str(path))
    assert subject.mask_found
    np.testing.assert_array_equal(subject.mask().data, INSIDE)
    assert references.read(subject, subject.image()).source.endswith("lesion_mask.nii.gz")
    path = written(tmp_path / "empty.csv", HEAD[:4], ("p1", "scans/p1/T2.nii.gz", "", ""), separator=",")
    (subject,) = sources.find(str(path))
    assert subject.mask is None
    with pytest.raises(InputError, match=r"has no reference segmentation\. The table names none"):
        references.read(subject, subject.image())


def test_flags_that_do_not_go_with_a_table(hospital):
    with pytest.raises(UsageError, match="column mask"):
        sources.find(str(hospital), mask="mask.nii")
    with pytest.raises(UsageError, match="--layout=bids goes with a folder"):
        sources.find(str(hospital), layout="bids")
    with pytest.raises(UsageError, match=r"lgjax\.find"):
        memory.read(str(hospital))
    with pytest.raises(UsageError, match="does not exist"):
        sources.find("absent.tsv")

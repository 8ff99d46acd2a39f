"""methods.md and citations.bib: every number is one of the record, every citation has its entry, and no other has."""

import re
from typing import Any

import derived
import images
import pytest

from lgjax.batch import restorations, section
from lgjax.derivatives import boilerplate
from lgjax.derivatives.boilerplate import Used
from lgjax.methods import gmm, names
from lgjax.methods.local import Settings
from lgjax.models import MODELS
from lgjax.preparation.bias import BiasField
from lgjax.preparation.brain import STRIPPERS
from lgjax.preparation.histogram import Histogram
from lgjax.preparation.recipe import Recipe
from lgjax.preparation.slices import Grid
from lgjax.scans import sources

SETTINGS = Settings(
    seed=0,
    precision="float32",
    batch_size=0,
    mixture=gmm.Settings(classes=3, kappa=3.25, iterations=101, atlas="mni"),
    learning_rate=0.0051,
    iterations=807,
    optimizer="proximal",
    refreshes=22,
    dual_steps=23,
    closed_steps=207,
    tolerance=0.0013,
    samples_est=11,
    samples_neural=14,
    reconstruction_variance=1.25,
    mirror_variance=0.433,
)
RECIPE = Recipe(
    Grid(96, 104, 2.25),
    BiasField(4.5, 6, 55, 0.0017),
    Histogram((1.5, 50.5, 98.5), (0.0, 44.0, 100.0)),
    "auto",
    (-2.5, 1.75),
)


def used(name: str = "vae_lg_neural_tv", **changed: Any) -> Used:
    """A record without two equal numbers."""
    record = Used(
        versions={"lgjax": "0.9.8", "jax": "0.10.7", "flax": "0.12.6", "nibabel": "5.3.4", "simpleitk": "2.5.1"},
        device="a device",
        method=names.parse(name),
        settings=SETTINGS,
        recipe=RECIPE,
        trained_on="a cohort",
        score="positive",
        unit="standard deviations",
        strength=5.125,
        ssim=0.95,
        reached=True,
        rate="0.005",
        threshold=0.625,
        subjects=17,
        healthy="healthy scans",
        pvalues=(123456, 13),
        promised=((7.5, 0.875),),
        cap=19,
        slice_step=2,
        brains=frozenset(boilerplate.BRAINS),
        others=29,
    )
    return record._replace(**changed)


def leaves(record: Any, *path: Any) -> dict[tuple, float | str]:
    """The numbers of a record, and its versions, by their place."""
    if isinstance(record, dict):
        return {(*path, key): value for key, value in record.items()}
    if hasattr(record, "_fields"):
        parts = record._asdict().items()
    elif isinstance(record, tuple):
        parts = enumerate(record)
    else:
        return {path: record} if isinstance(record, int | float) and not isinstance(record, bool) else {}
    return {place: value for name, part in parts for place, value in leaves(part, *path, name).items()}


def with_leaf(record: Any, path: tuple, value: Any) -> Any:
    """The record with another value at a place."""
    if not path:
        return value
    name, *rest = path
    if isinstance(record, dict):
        return {**record, name: value}
    if hasattr(record, "_fields"):
        return record._replace(**{name: with_leaf(getattr(record, name), tuple(rest), value)})
    return tuple(with_leaf(part, tuple(rest), value) if k == name else part for k, part in enumerate(record))


def numbers(text: str) -> list[str]:
    """The numbers of a text; names such as T2, N4 and lg_tv3d, and the keys of citations, have none."""
    plain = re.sub(r"`[^`]*`|@\w+", "", text)
    return re.findall(r"(?<![\w.-])-?\d+(?:\.\d+)*(?![\w])", plain)


@pytest.mark.parametrize("optimizer", ["adam", "gradient", "proximal"])
@pytest.mark.parametrize("name", names.available())
def test_every_number_is_one_of_the_record(name, optimizer):
    record = used(name, settings=SETTINGS._replace(optimizer=optimizer))
    told = boilerplate.text(record)
    known = {f"{value:g}" if isinstance(value, int | float) else value for value in leaves(record).values()}
    assert set(numbers(told)) - known == {"0.5"}  # the rate, in %
    assert "None" not in told


def test_a_number_of_the_record_that_changes_changes_the_text():
    """And each is told by some method: but for the seed, the batch and what the paper's text leaves open."""
    untold = set(leaves(used()))
    for name in names.available():
        for optimizer in ("adam", "proximal"):
            record = used(name, settings=SETTINGS._replace(optimizer=optimizer))
            told = boilerplate.text(record)
            for place, value in leaves(record).items():
                other = with_leaf(record, place, "9.9.9" if isinstance(value, str) else 3 * value + 1)
                changed = boilerplate.text(other)
                assert len(numbers(changed)) == len(numbers(told))
                if changed != told:
                    untold.discard(place)
    assert {place[-1] for place in untold if place[:3] != ("recipe", "histogram", "values")} == {
        "seed",
        "batch_size",
        "deviation_limit",
        "variance_floor",
        "reconstruction_weight",
        "latent_size",
        "feature_weight",
    }


def parsed(bibliography: str) -> dict[str, dict[str, str]]:
    """The fields of every entry, by key; strict: one entry after the other, every brace closed, no field twice."""
    found = {}
    for entry in re.split(r"\n\n(?=@)", bibliography.strip()):
        kind, key, body = re.fullmatch(r"@(\w+)\{(\w+),\n(.*)\n\}", entry, re.DOTALL).groups()
        fields = [re.fullmatch(r"  (\w+) = \{(.*)\}", line.removesuffix(",")).groups() for line in body.split("\n")]
        assert all(line.endswith(",") for line in body.split("\n")[:-1])
        for _, value in fields:
            depths = [value[:k].count("{") - value[:k].count("}") for k in range(len(value) + 1)]
            assert min(depths) >= 0
            assert depths[-1] == 0
        assert key not in found
        assert len(dict(fields)) == len(fields)
        found[key] = {"kind": kind, **dict(fields)}
    return found


NEEDED = {
    "article": {"author", "title", "journal", "volume", "pages", "year", "doi"},
    "book": {"author", "title", "publisher", "year"},
    "inproceedings": {"author", "title", "booktitle", "year"},
    "misc": {"author", "title", "year", "eprint"},
    "software": {"author", "title"},
}


def test_the_literature_is_whole():
    entries = parsed("\n\n".join(boilerplate.literature().values()))
    for key, fields in entries.items():
        assert NEEDED[fields["kind"]] <= set(fields), key
        assert re.fullmatch(r"\d+(--\d+)?", fields.get("pages", "1")), key
        assert re.fullmatch(r"10\.\d{4,}/\S+", fields.get("doi", "10.1000/x")), key
        assert key == fields["kind"] == "software" or key[-4:] == fields.get("year", key[-4:]) or key == "simpleitk"
    texts = [boilerplate.text(used(name, settings=SETTINGS)) for name in names.available()]
    assert set.union(*map(boilerplate.cited, texts)) == set(entries)  # none is there in vain


@pytest.mark.parametrize("name", names.available())
def test_every_citation_has_its_entry_and_every_entry_is_cited(name):
    record = used(name)
    told = boilerplate.text(record)
    entries = parsed(boilerplate.bibliography(told, record.versions))
    assert set(entries) == set(re.findall(r"@(\w+)", told))
    assert {"chen2019", "lgjax", "nibabel", "jax"} <= set(entries)
    assert entries["jax"]["version"] == "0.10.7"


def test_what_was_not_used_is_neither_told_nor_cited():
    recipe = Recipe(RECIPE.grid, None, None, "auto")
    record = used(
        "mirror_tv3d",
        recipe=recipe,
        slice_step=1,
        pvalues=None,
        promised=(),
        ssim=None,
        brains=frozenset({"given"}),
        trained_on="no",
        others=0,
    )
    told = boilerplate.text(record)
    assert boilerplate.cited(told) == {"beck2009", "chen2019", "jax", "lgjax", "nibabel", "pock2011", "rudin1992"}
    for word in (
        "bias field",
        "percentiles",
        "clipped",
        "One of",
        "p-value",
        "mL",
        "HD-BET",
        "Flax",
        "trained",
        "Adam",
        "other",
    ):
        assert word not in told
    assert "lambda was set to 5.125" in told
    assert "below the wanted 0.95" in boilerplate.text(used(reached=False))


def test_every_model_and_every_origin_of_a_brain_has_its_words():
    assert set(boilerplate.MODELS) == set(MODELS)
    assert set(boilerplate.BRAINS) == {"given", "background", *STRIPPERS}


def test_a_folder_of_maps_says_how_it_was_made(tmp_path):
    """By what its sidecars say of the brains, those of an earlier run too."""
    images.save(tmp_path / "in" / "a.nii.gz", derived.brain(), derived.GRID)
    detector, out = derived.detector(), tmp_path / "out"
    restorations.restore(detector, sources.find(str(tmp_path / "in")), out, 1)
    told = (out / "methods.md").read_text()
    assert "came from the empty background of a skull-stripped scan." in told
    assert told == boilerplate.text(section.used(detector, frozenset({"background"}), 0))
    assert boilerplate.cited(told) == set(parsed((out / "citations.bib").read_text()))
    assert {"/methods.md", "/citations.bib"} <= set((out / ".bidsignore").read_text().splitlines())
    images.save(tmp_path / "more" / "b.nii.gz", derived.brain(1) + 50, derived.GRID)
    images.save(tmp_path / "more" / "b_mask.nii.gz", (derived.brain(1) > 0).astype("uint8"), derived.GRID)
    restorations.restore(detector, sources.find(str(tmp_path / "more")), out, 1)
    assert "skull-stripped scan or a mask beside the scan." in (out / "methods.md").read_text()


@pytest.fixture
def two(tmp_path):
    """An output folder with the maps of a scan with a mask, and another scan, which is to be restored there."""
    images.save(tmp_path / "one" / "a.nii.gz", derived.brain(1) + 50, derived.GRID)
    images.save(tmp_path / "one" / "a_mask.nii.gz", (derived.brain(1) > 0).astype("uint8"), derived.GRID)
    images.save(tmp_path / "two" / "b.nii.gz", derived.brain(), derived.GRID)
    restorations.restore(derived.detector(), sources.find(str(tmp_path / "one")), tmp_path / "out", 1)
    return tmp_path / "out", sources.find(str(tmp_path / "two"))


def test_maps_of_other_settings_are_counted_and_not_told_of(two):
    folder, scans = two
    assert "a mask beside the scan" in (folder / "methods.md").read_text()
    detector = derived.detector()
    detector.about["Thresholds"] = {"0.01": 1.75, "0.05": 1.0}
    restorations.restore(detector, scans, folder, 1)
    told = (folder / "methods.md").read_text()
    assert "score above 1.75 standard" in told
    assert "a mask beside the scan" not in told
    assert "1 other map in the folder is of other weights, settings or versions" in told
    restorations.restore(detector, sources.find(str(folder.parent / "one")), folder, 1)
    told = (folder / "methods.md").read_text()
    assert "other map" not in told
    assert "a mask beside the scan" in told


def test_a_run_that_is_interrupted_leaves_no_text_of_another_run(two, monkeypatch):
    folder, scans = two
    assert (folder / "methods.md").exists()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(restorations.Stages, "work", interrupted)
    with pytest.raises(KeyboardInterrupt):
        restorations.restore(derived.detector(), scans, folder, 1)
    assert not (folder / "methods.md").exists()
    assert not (folder / "citations.bib").exists()

"""CITATION.cff says what GitHub, Zenodo and Zotero read: this version, its authors, the paper of the method."""

import re

import pytest
import yaml
from conftest import ROOT

import lgjax

REQUIRED = {"cff-version", "message", "title", "authors"}  # by the schema of CFF 1.2.0
KNOWN = REQUIRED | {"type", "abstract", "version", "license", "keywords", "references"}


@pytest.fixture(scope="module")
def citation():
    return yaml.load((ROOT / "CITATION.cff").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # all are texts


def test_it_has_the_fields_of_the_format(citation):
    assert set(citation) == KNOWN
    assert (citation["cff-version"], citation["type"], citation["license"]) == ("1.2.0", "software", "Apache-2.0")
    assert citation["authors"] == [{"name": "The lgjax developers"}]
    assert all(citation[field] for field in KNOWN)


def test_it_is_this_version(citation):
    (packaged,) = re.findall(r'^    version="(.*)",$', (ROOT / "setup.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert citation["version"] == packaged == lgjax.__version__


def test_the_paper_is_the_one_that_the_readme_names(citation):
    (paper,) = citation["references"]
    families = [author["family-names"] for author in paper["authors"]]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{', '.join(families[:-1])} and {families[-1]}, *{paper['title']}*, {paper['year']}" in readme
    assert re.fullmatch(r"10\.\d{4,9}/\S+", paper["doi"])
    assert int(paper["start"]) < int(paper["end"])

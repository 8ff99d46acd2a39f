"""Where pages of scans and tables of a cohort lie beside the maps: they go when the maps that they show change."""

import logging
import pathlib

from lgjax.runtime.errors import InputError
from lgjax.runtime.files import check_contained

LOG = logging.getLogger(__name__)
FOLDER, INDEX = "viewer", "index.html"  # a page for each scan, and the page that lists them
GROUP = "group_T2w"  # the table of the cohort, what its columns mean, its page
_OF_A_GROUP = ("tsv", "json", "html")


def name(identifier: str) -> str:
    """Returns the file name of a scan's page."""
    return f"{identifier}.html"


def page(folder: pathlib.Path, identifier: str) -> pathlib.Path:
    """Returns the path of a scan's page in a folder of outputs."""
    return folder / FOLDER / name(identifier)


def index(folder: pathlib.Path) -> pathlib.Path:
    """Returns the path of the page that lists the others."""
    return folder / FOLDER / INDEX


def forget(folder: pathlib.Path, identifier: str) -> None:
    """Removes what shows a scan's maps as they were, since they are about to change; a linked folder is left alone.

    Args:
      folder: of the outputs.
      identifier: of the scan.
    """
    if _is_ours(folder) and page(folder, identifier).exists():
        index(folder).unlink(missing_ok=True)
        page(folder, identifier).unlink(missing_ok=True)
    tables = [path for ending in _OF_A_GROUP if (path := folder / f"{GROUP}.{ending}").exists()]
    for path in tables:
        path.unlink(missing_ok=True)
    if tables:
        LOG.info(
            "%s of an earlier state is removed: a scan has changed. `lgjax bids DATA OUT group` makes it again", GROUP
        )


def _is_ours(folder: pathlib.Path) -> bool:
    """Returns whether no link leads the pages out of the outputs."""
    try:
        check_contained(folder, folder / FOLDER)
    except InputError:
        return False
    return True

"""Which prediction is held against which reference: that of its name, or else that of the same scan."""

from collections import defaultdict
from collections.abc import Collection, Mapping

from lgjax.derivatives.read import Prediction
from lgjax.evaluation.references import References
from lgjax.scans import sources


def paired(
    predictions: Mapping[str, Prediction], known: References, taken: Collection[str] = ()
) -> dict[str, Prediction]:
    """Returns predictions by the identifiers of their references, in alphabetical order.

    A scan's name depends on how the scan was given: as a file, or in a folder. So a prediction whose name no reference
    has is that of the reference beside which the same scan lies; where that holds for two references, of neither.

    Args:
      predictions: by their own identifiers.
      known: the references.
      taken: identifiers of references that are no other prediction's.
    """
    found = {name: item for name, item in predictions.items() if name in known.subjects}
    nameless = [item for name, item in predictions.items() if name not in known.subjects]
    free = known.subjects.keys() - found.keys() - set(taken)
    scans: dict[str, list[str]] = defaultdict(list)
    for name in free if nameless else ():
        scans[sources.content(known.subjects[name])].append(name)
    for item in nameless:
        same = scans.get(item.sidecar.input_sha256 or "none", [])
        if len(same) == 1:
            found[same[0]] = item
    return dict(sorted(found.items()))

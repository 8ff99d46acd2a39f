"""The records of an evaluation: metrics.json, the lines of subjects.tsv, a comparison.

The names of the fields are the keys on disk, in their order; nothing else spells them. A number that is undefined
is None, and `reasons` says why by its path in metrics.json ("dice/0.01/mean"). A rate is an asked false positive
rate as text ("0.01"). Scores and thresholds are in the unit of the anomaly map.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lgjax.derivatives.sidecar import Convergence, Search
from lgjax.evaluation.intervals import Interval, Summary
from lgjax.evaluation.settings import Settings

ALONE = "fewer than two subjects"  # a standard deviation takes two


NEGATIVES = {False: "brain", True: "brain without the tissue that lesions displace"}  # by whether some is


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A measured subject: one line of subjects.tsv; all from `sensitivity` to `false_positive_ml` at the mask rate."""

    participant_id: str
    kind: str  # of lesion; "": not stated
    brain_voxels: int
    displaced_voxels: int  # of the brain: neither lesion nor healthy, and counted nowhere (see `references.displaced`)
    lesion_voxels: int  # of the reference, inside the brain
    lesion_ml: float  # mL, of these
    lesion_outside_brain_voxels: int  # of the reference in the slices that were restored
    reference_voxels: int  # of the whole reference
    dice: dict[str, float | None]  # by rate
    fpr: dict[str, float | None]  # by rate: achieved, a share of the healthy brain voxels
    fp_ml: dict[str, float]  # mL by rate: detected in the healthy brain
    sensitivity: float | None  # found reference lesions / reference lesions (see `metrics.lesion_wise`)
    ppv: float | None  # true predicted components / predicted components
    f1: float | None
    reference_lesions: int
    predicted_components: int
    hd95: float | None  # mm
    detected_ml: float | None  # mL
    false_positive_ml: float | None  # mL
    seconds_per_iteration: float | None  # s
    input_sha256: str  # of the scan that was restored
    same_scan: bool  # whether the scan beside the reference is that one
    reference: str  # its file, from the folder of the labels; "": none was needed
    reference_note: str  # how it was found, where no name told; "": a name told
    light: str  # green, amber, red or unknown: whether the scan is like healthy ones; "": its sidecar does not say

    @property
    def has_lesion(self) -> bool:
        """Whether the restored slices hold a lesion; one outside the brain mask counts: the mask missed it."""
        return self.lesion_voxels + self.lesion_outside_brain_voxels > 0

    @property
    def healthy_voxels(self) -> int:
        """The negatives."""
        return self.brain_voxels - self.displaced_voxels - self.lesion_voxels


@dataclasses.dataclass(frozen=True)
class Dice(Summary):
    """Dice over the subjects with a lesion, at one rate."""

    achieved_fpr: float | None  # false positive voxels / healthy voxels, of all subjects pooled


@dataclasses.dataclass(frozen=True)
class AreaIntervals:
    """The 95 % intervals of the areas under the two curves."""

    auc: Interval
    auprc: Interval


@dataclasses.dataclass(frozen=True)
class LesionIntervals:
    """The 95 % intervals of the lesion-wise means."""

    sensitivity: Interval
    ppv: Interval
    f1: Interval


@dataclasses.dataclass(frozen=True)
class LesionMeans:
    """Lesion-wise metrics, means over subjects with a lesion."""

    fpr: float  # asked, of the mask in which lesions are counted
    ci95: LesionIntervals
    sensitivity: float | None
    ppv: float | None
    f1: float | None


@dataclasses.dataclass(frozen=True)
class FalsePositives:
    """The volume that was detected where nothing is ill, mL by rate."""

    healthy: dict[str, Summary]  # over subjects whose reference is empty
    patients: dict[str, Summary]  # in the lesion-free brain, over subjects with a lesion


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """The metrics of a set of subjects; AUC, AUPRC and oracle Dice over all their brain voxels pooled."""

    n_subjects: int
    n_with_lesion: int
    negatives: str  # which voxels count as healthy: all others of the "brain", see `NEGATIVES`
    auc: float | None
    auprc: float | None
    auc_resolution: float | None  # largest possible distance to the exact value
    auprc_resolution: float | None
    score_bits: int  # of float32 that the pooled metrics tell apart; 32: exact
    ci95: AreaIntervals
    dice_oracle: float | None  # best Dice of any one threshold
    oracle_threshold: float | None
    prevalence: float  # lesion voxels / voxels that are judged
    dice: dict[str, Dice]  # by rate
    mask_rate: str  # asked of the mask in which lesions, distances and volumes are counted
    lesion_wise: LesionMeans
    hd95: Summary  # mm
    lesion_ml: Summary  # mL of reference inside the brain, over subjects with a lesion
    detected_ml: Summary  # mL, over the same
    healthy_fp_ml: Summary  # mL, over subjects whose reference is empty
    fp_ml: FalsePositives
    displaced_voxels: int
    lesion_outside_brain_voxels: int
    missed_by_brain_mask: list[str]  # subjects with a lesion of which no voxel lies inside the brain mask
    other_scans: int  # subjects whose reference lies beside another scan than the restored one
    subjects: int  # n_subjects, under a second name
    reasons: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Timing:
    """The time of one iteration of one batch."""

    median: float | None  # s, over subjects
    n: int  # subjects that state it
    batch_size: int | None  # slices
    grid: list[int] | None  # height and width of a slice, pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the numbers come from: the folders, the model, what restored and evaluated."""

    predictions: str
    labels: str
    lesion_labels: tuple[float, ...]  # values that are lesion; (): see `segmentations.lesion_of`
    trained_on: Any  # as its sidecars state it
    lambda_: float | None
    seed: int | None
    config_sha256: str | None
    weights_sha256: str | None
    calibration_subjects: int  # how many
    restored_by_version: str
    jax_version: str
    device: str
    evaluated_by_version: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What was evaluated."""

    method: str
    score: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics(Group, Method):  # on disk: the fields of Method, of Group, its own
    """All of metrics.json: the metrics of all subjects of one method, and those of each kind of lesion."""

    groups: dict[str, Group]  # by kind
    thresholds: dict[str, float]  # by rate, ascending
    slice_step: int  # one of so many axial slices was restored and measured
    settings: Settings  # of the evaluation
    seconds_per_iteration: Timing
    search: Search | None
    convergence: Convergence | None  # means over subjects
    failed: dict[str, str]  # why a subject was not evaluated, by its identifier
    references: dict[str, str]  # the file that each was measured against, from the folder of the labels
    notes: dict[str, str]  # how a reference was found, where no name told
    provenance: Provenance
    restored_as: dict[str, str] = dataclasses.field(default_factory=dict)  # the prediction, where it has another name


@dataclasses.dataclass(frozen=True)
class Difference:
    """A metric of one method minus that of another, on the same subjects."""

    difference: float | None
    ci95: Interval
    excludes_zero: bool | None  # whether the interval does
    p: float | None = None  # of no difference, two-sided
    p_holm: float | None = None  # the same, corrected for the number of tests of the comparison
    certain: bool | None = None  # whether that is below the error of the family
    reason: str | None = None  # of what is None; on disk only where something is


@dataclasses.dataclass(frozen=True)
class Differences:
    """One method minus the reference."""

    method: str
    n_subjects: int
    dice: dict[str, Difference]  # by rate, of the means
    auc: Difference
    auprc: Difference
    auprc_by_kind: dict[str, Difference]  # of the subjects of one kind of lesion; empty where all are of one kind

    @property
    def entries(self) -> list[Difference]:
        """Those of all subjects."""
        return [*self.dice.values(), self.auc, self.auprc]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Each method held against one of them, the reference."""

    reference: str
    family_error: float  # chance that any difference is called certain by accident
    tests: int  # p-values that are corrected together: those of all subjects
    kind_tests: int  # p-values that are corrected together: those of the kinds
    rows: list[Differences]


def percent(rate: str) -> str:
    """Returns "0.001" as "0.1 %"."""
    return f"{100 * float(rate):g} %"


def to_json(record: Any) -> dict[str, Any]:
    """Returns a record by its keys on disk."""
    return dataclasses.asdict(record, dict_factory=_keyed)


def lines(rows: Sequence[Row], failed: Mapping[str, str]) -> list[dict[str, Any]]:
    """Returns the lines of subjects.tsv by column; who failed has an identifier and a status alone."""
    measured = [_columns(row) | {"status": "ok"} for row in rows]
    return measured + [{"participant_id": name, "status": text} for name, text in failed.items()]


def group_reasons(group: Group, unranked: str | None, few: str) -> dict[str, str]:
    """Returns why numbers of a group are None, by their paths.

    Args:
      group: its metrics.
      unranked: why AUC and AUPRC are undefined, see `metrics.undefined_ranking`.
      few: why an interval is.
    """
    if unranked:
        names = ("auc", "auprc", "dice_oracle", "oracle_threshold", "auc_resolution", "auprc_resolution")
        found = dict.fromkeys((*names, "ci95/auc", "ci95/auprc"), unranked)
    else:
        found = {f"ci95/{name}": few for name, value in vars(group.ci95).items() if value is None}
    for rate, dice in group.dice.items():
        found |= _summary_reasons(f"dice/{rate}", dice, "no subject with a lesion", few)
        if dice.achieved_fpr is None:
            found[f"dice/{rate}/achieved_fpr"] = "no healthy voxel"
    no_mask = None if group.mask_rate in group.dice else f"no detection mask at {percent(group.mask_rate)} FPR"
    for name, interval in vars(group.lesion_wise.ci95).items():
        why = no_mask or "no subject with a lesion, or nothing detected"
        if unknown := getattr(group.lesion_wise, name) is None:
            found[f"lesion_wise/{name}"] = why
        if interval is None:
            found[f"lesion_wise/ci95/{name}"] = why if unknown else few
    found |= _summary_reasons("hd95", group.hd95, no_mask or "no subject with both a lesion and a detection", few)
    found |= _summary_reasons("lesion_ml", group.lesion_ml, "no subject with a lesion", few)
    found |= _summary_reasons("detected_ml", group.detected_ml, no_mask or "no subject with a lesion", few)
    why = no_mask or "no subject without a lesion"
    found |= _summary_reasons("healthy_fp_ml", group.healthy_fp_ml, why, few)
    for name, who in (("healthy", "without"), ("patients", "with")):
        for rate, volume in getattr(group.fp_ml, name).items():
            found |= _summary_reasons(f"fp_ml/{name}/{rate}", volume, f"no subject {who} a lesion", few)
    return found


def restoration_reasons(timing: Timing, search: Search | None, convergence: Convergence | None) -> dict[str, str]:
    """Returns why parts of what is known of a restoration are None, by their paths."""
    nothing, different = "nothing is iterated, or it was not recorded", "not recorded, or not the same for all subjects"
    parts = {
        "search": (search, nothing),
        "convergence": (convergence, nothing),
        "seconds_per_iteration/median": (timing.median, nothing),
        "seconds_per_iteration/batch_size": (timing.batch_size, different),
        "seconds_per_iteration/grid": (timing.grid, different),
    }
    return {path: why for path, (value, why) in parts.items() if value is None}


def _summary_reasons(path: str, summary: Summary, why: str, few: str) -> dict[str, str]:
    """Returns the reasons of a summary: `why` where no subject has the metric."""
    parts = {"mean": (summary.mean, why), "std": (summary.std, ALONE), "ci95": (summary.ci95, few)}
    return {f"{path}/{part}": text if summary.n else why for part, (value, text) in parts.items() if value is None}


def _columns(row: Row) -> dict[str, Any]:
    """Returns a line of subjects.tsv by column: Dice, FPR and its volume stand side by side, rate by rate."""
    found: dict[str, Any] = {}
    for name, value in vars(row).items():
        if name == "dice":
            for rate in row.dice:
                found |= {f"{part}_{rate}": getattr(row, part)[rate] for part in ("dice", "fpr", "fp_ml")}
        elif name not in ("fpr", "fp_ml"):
            found[name] = value
    return found


def _keyed(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns fields by key: "lambda" is no name in Python, and a reason stands only where there is one."""
    return {name.rstrip("_"): value for name, value in fields if (name, value) != ("reason", None)}

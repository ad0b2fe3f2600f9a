"""Which pairs a comparison is judged on, and on which pairs of other people it chooses epochs and thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from interproto_lib.data.datasets import FaceDataset
from interproto_lib.data.manifests import CHILD_BELOW_YEARS
from interproto_lib.data.protocols import Negatives
from interproto_lib.data.test_set_files import read_test_set
from interproto_lib.data.test_sets import AGE_MATCHED, VerificationSet, held_out_sets
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError

_VALIDATION_KEY = "validation"


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSets:
    """Test sets, and for each the validation set that thresholds and epochs are chosen on.

    Attributes:
        tests: Name -> test set.
        validation: Name of a test set -> the pairs of other people that it is calibrated on; a test set may be missing.
        missing: Name -> why a test set that was asked for is not there; empty unless missing ones are left out.
    """

    tests: Mapping[str, VerificationSet]
    validation: Mapping[str, VerificationSet]
    missing: Mapping[str, str]

    @property
    def all_sets(self) -> list[VerificationSet]:
        """Every set once, whatever it is for."""
        return list({one.name: one for one in (*self.tests.values(), *self.validation.values())}.values())


def evaluation_sets(
    dataset: FaceDataset,
    specifications: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    child_below_years: float = CHILD_BELOW_YEARS,
    gap_inclusive: bool = True,
    age_matched: bool = False,
    pair_seed: int = 0,
    on_missing: Literal["error", "leave_out"] = "error",
) -> EvaluationSets:
    """Gather the test sets of a comparison: of the dataset's own held-out people, and those read from files.

    Args:
        dataset: The dataset of the experiment; its held-out identities make one test set for each kind of pair, its
            validation identities the pairs that these are calibrated on.
        specifications: Name -> where a test set is read from, as `read_test_set` takes it; with the key `validation` in
            addition, the name of another one of them, or a kind of pair of the dataset's own validation identities,
            that it is calibrated on. A set that another one is calibrated on is judged itself as well.
        child_below_years: An image of the dataset is a child's below this age in years.
        gap_inclusive: Whether a gap of exactly 20 (30) years is enough for the dataset's "C20" ("C30").
        age_matched: Add for each kind a test set of the dataset in which pairs of two people have the ages of those of
            one person, so that ages tell nothing; its validation pairs are drawn likewise.
        pair_seed: Seed of the dataset's negative pairs.
        on_missing: What to do with test sets whose files are not there: `error`, or `leave_out`, which names them.

    Returns:
        The sets.

    Raises:
        ConfigError: A specification is wrong, or names a validation set that does not exist.
        DatasetError: A list or an image is wrong, or a test set shares people with its validation set.
        DatasetNotFoundError: Files of a test set are not there.
    """
    if on_missing not in ("error", "leave_out"):
        raise ConfigError(f"on_missing={on_missing!r}: must be 'error' or 'leave_out'.")
    ways: list[tuple[Negatives, str]] = [("age_rule", "")]
    if age_matched:
        ways.append(("age_matched", AGE_MATCHED))
    own, own_validation = (
        {
            f"{kind}{after}": one
            for negatives, after in ways
            for kind, one in held_out_sets(
                dataset,
                split=split,
                child_below_years=child_below_years,
                gap_inclusive=gap_inclusive,
                negatives=negatives,
                seed=pair_seed,
            ).items()
        }
        for split in ("heldout", "validation")
    )
    read, calibrated_on, missing = _read(specifications or {}, dataset.image_size, on_missing)
    for name in read:
        if name in own or name in {one.name for one in own_validation.values()}:
            raise ConfigError(
                f"A test set cannot be called {name!r}: that is what pairs of the dataset's people are called."
            )
    known = {**own_validation, **read}
    for name, validation_name in calibrated_on.items():
        if validation_name == name:
            raise ConfigError(f"Test set {name!r} is to be calibrated on itself: name a set of other people.")
        if validation_name not in known and validation_name not in missing:
            raise ConfigError(
                f"Test set {name!r} is to be calibrated on {validation_name!r}, which is neither another test set nor "
                f"a kind of pair of the validation identities. There are: {', '.join(known) or 'none'}."
            )
    tests = {**own, **read}
    validation = {name: own_validation[name] for name in own if name in own_validation}
    validation |= {name: known[on] for name, on in calibrated_on.items() if name in read and on in known}
    for name, on in validation.items():
        _check_disjoint(tests[name], on)
    return EvaluationSets(tests=tests, validation=validation, missing=missing)


def _read(
    specifications: Mapping[str, Mapping[str, Any]], image_size: int, on_missing: str
) -> tuple[dict[str, VerificationSet], dict[str, str], dict[str, str]]:
    read: dict[str, VerificationSet] = {}
    calibrated_on: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, specification in specifications.items():
        if not isinstance(specification, Mapping):
            raise ConfigError(
                f"Test set {name!r} must be described by a mapping such as {{pairs: ..., images: ...}}, "
                f"got {specification!r}."
            )
        where = {key: value for key, value in specification.items() if key != _VALIDATION_KEY}
        if _VALIDATION_KEY in specification:
            calibrated_on[name] = str(specification[_VALIDATION_KEY])
        try:
            read[name] = read_test_set(name, where, image_size=image_size)
        except DatasetNotFoundError as error:
            if on_missing == "error":
                raise
            missing[name] = str(error)
    return read, calibrated_on, missing


def _check_disjoint(test: VerificationSet, validation: VerificationSet) -> None:
    shared = sorted(set(test.images["identity"].dropna()) & set(validation.images["identity"].dropna()))
    if shared:
        raise DatasetError(
            f"Test set {test.name!r} is to be calibrated on {validation.name!r}, but they share {len(shared)} people "
            f"(first: {', '.join(map(repr, shared[:3]))}). Threshold and epoch are chosen on other people than those "
            "judged."
        )

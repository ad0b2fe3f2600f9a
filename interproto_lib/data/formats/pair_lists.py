"""Reading lists of image pairs: the official child-adult lists, LFW, CALFW and CPLFW, and lists with labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from interproto_lib.data.formats.image_files import IMAGE_ENDINGS
from interproto_lib.data.tables import CONTROL_CHARACTERS
from interproto_lib.errors import ConfigError, ManifestError

PairLayout = Literal["auto", "child_adult", "lfw", "two_lines", "labelled"]
RepeatedPairs = Literal["error", "keep"]
IncompletePairs = Literal["keep", "drop", "official", "error"]

PAIR_LAYOUTS: dict[str, str] = {
    "child_adult": "`<1|0> <left> <right>`, one pair a line, as the official child-adult lists",
    "lfw": "pairs.txt of LFW: a line `folds pairs`, then `name i j` (same) or `name i other j` (different)",
    "two_lines": "two lines `<image> <flag>` a pair, as CALFW and CPLFW; flag 0: different, 1 to 10: same (the fold)",
    "labelled": "`<left> <right> <1|0>`, one pair a line",
}
"""Layouts of pair lists, each with what a line looks like."""

_MAX_NAMED = 10
_N_LINES_LOOKED_AT = 20
_MAX_FLAG = 10
_NOT_RELATIVE = re.compile(r"^/|^[A-Za-z]:|\\|(^|/)\.{0,2}(/|$)")


@dataclass(frozen=True)
class _Pair:
    """A pair as it stands in a list; `right` is None where the list lost it."""

    line: int
    left: str
    right: str | None
    same: bool


@dataclass(frozen=True)
class _Line:
    """A line that is not blank: its number from 1, and its text without blanks around it."""

    number: int
    text: str


def read_pairs(
    path: str | Path,
    *,
    layout: PairLayout = "auto",
    duplicates: RepeatedPairs = "error",
    incomplete: IncompletePairs = "keep",
) -> pd.DataFrame:
    """Read a list of pairs of images.

    File names may hold blanks: a line is cut where one image name ends and the folder starts that the paths of the
    list share. Blank lines are passed over.

    17 of the 3,400 lines of the official lag.txt are incomplete. Whoever wrote it cut each line of LAG's own list at
    its blanks, kept the label and two pieces, and put `dataset/test/` before both. Where the first name holds blanks,
    `1 dataset/test/LAG-aligned/michael_schumacher/y/michael dataset/test/schumacher` is all that is left: the first
    two words of the young image's name (`.../y/michael schumacher`, the end is lost), the label, and nothing of the
    second image. Nothing in the list tells which images were meant, so none is guessed.

    Args:
        path: The list, UTF-8 (with or without a byte order mark, Unix or Windows ends of line).
        layout: One of `PAIR_LAYOUTS`, or "auto": recognised by the first lines.
        duplicates: A pair that stands twice, also with its images swapped: "error" names the lines, "keep" keeps both.
            No list of the paper holds one. Two lines that disagree on a pair are always an error.
        incomplete: Lines of layout "child_adult" cut off as described: "keep" leaves `right` missing and in `left` the
            known beginning; "drop" leaves them out; "official" does as the official code, which sorts the lines and
            compares the last images before once more under the incomplete line's label; "error" names the lines.

    Returns:
        One row a pair in the order of the list: `left`, `right` (str, as written, with forward slashes), `same`
        (bool), `line` (int64, from 1: the pair's first line).

    Raises:
        ConfigError: An argument has an unknown value.
        ManifestError: There is no such list, or it is not what its layout says: wrong labels or columns, absolute
            paths or `..`, an image paired with itself, repeated pairs, pairs of one class only, no pair at all. The
            message names file and lines.
    """
    _check_settings(layout, duplicates, incomplete)
    file = Path(path)
    lines = _read_lines(file)
    chosen = _recognise(file, lines) if layout == "auto" else layout
    if chosen == "lfw":
        pairs = _parse_lfw(file, lines)
    elif chosen == "two_lines":
        pairs = _parse_two_lines(file, lines)
    else:
        pairs = _parse_labelled(file, lines, label_first=chosen == "child_adult")
    _check_paths(file, pairs)
    whole = [pair for pair in pairs if pair.right is not None]
    _check_pairs(file, whole, duplicates)
    if len(whole) < len(pairs):
        pairs = _settle_incomplete(file, lines, pairs, incomplete)
    n_same = sum(pair.same for pair in pairs)
    if n_same in (0, len(pairs)):
        found = "of two people" if n_same == 0 else "of one person"
        raise ManifestError(
            f"{file}: all {len(pairs)} pairs are {found}. Verification needs both kinds; check that the list is whole."
        )
    return pd.DataFrame(
        {
            "left": [pair.left for pair in pairs],
            "right": [pair.right for pair in pairs],
            "same": [pair.same for pair in pairs],
            "line": pd.array([pair.line for pair in pairs], dtype="int64").to_numpy(),
        }
    )


def _check_settings(layout: str, duplicates: str, incomplete: str) -> None:
    for name, value, known in (
        ("layout", layout, get_args(PairLayout)),
        ("duplicates", duplicates, get_args(RepeatedPairs)),
        ("incomplete", incomplete, get_args(IncompletePairs)),
    ):
        if value not in known:
            raise ConfigError(f"{name} is {value!r}, expected one of: {', '.join(known)}.")


def _read_lines(file: Path) -> list[_Line]:
    if not file.is_file():
        raise ManifestError(f"There is no pair list {file}. Check the path.")
    lines = []
    for number, content in enumerate(file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            text = content.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise ManifestError(
                f"{file}, line {number}: the text is not UTF-8 ({error.reason}). Save the list as UTF-8."
            ) from error
        if re.search(CONTROL_CHARACTERS, text.replace("\t", " ")):
            raise ManifestError(f"{file}, line {number}: {text[:100]!r} holds control characters; is it a text file?")
        if text.strip(" \t"):
            lines.append(_Line(number, text.strip(" \t")))
    if not lines:
        raise ManifestError(f"{file} is empty; expected pairs of images in one of the layouts:\n{_layouts()}")
    return lines


def _layouts() -> str:
    return "\n".join(f"  {name}: {form}" for name, form in PAIR_LAYOUTS.items())


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _recognise(file: Path, lines: Sequence[_Line]) -> str:
    first = lines[0].text.split()
    if len(first) <= 2 and all(map(_is_number, first)):
        return "lfw"
    for line in lines[:_N_LINES_LOOKED_AT]:
        words = line.text.split()
        n_images = sum(map(_is_image, words))
        if n_images >= 2 and _is_image(words[-1]):
            return "child_adult"
        if n_images >= 2:
            return "labelled"
        if n_images == 1 and not _is_image(words[-1]):
            return "two_lines"
    hint = " A list of LFW starts with a line of its number of folds and pairs." if len(first) in (3, 4) else ""
    raise ManifestError(
        f"{file}, line {lines[0].number}: found {lines[0].text[:200]!r}, which is none of the layouts known:\n"
        f"{_layouts()}\nImage names end in {' '.join(IMAGE_ENDINGS)}.{hint}"
    )


def _parse_lfw(file: Path, lines: Sequence[_Line]) -> list[_Pair]:
    header = lines[0].text.split()
    if len(header) > 2 or not all(map(_is_number, header)):
        raise ManifestError(
            f"{file}, line {lines[0].number}: found {lines[0].text[:200]!r}; a list of LFW starts with the number of "
            "folds and of pairs of each kind in a fold, as in `10 300`, or with the latter alone."
        )
    pairs, problems = [], []
    for line in lines[1:]:
        words = line.text.split()
        numbers = words[1:] if len(words) == 3 else words[1::2]
        if len(words) not in (3, 4) or not all(map(_is_number, numbers)):
            problems.append((line.number, f"{line.text[:200]!r}"))
        elif len(words) == 4 and words[0] == words[2]:
            problems.append((line.number, f"{words[0]} twice, where `name i other j` names two people"))
        else:
            first, second = (words[0], words[0]) if len(words) == 3 else (words[0], words[2])
            left, right = (f"{name}/{name}_{int(i):04d}.jpg" for name, i in zip((first, second), numbers, strict=True))
            pairs.append(_Pair(line.number, left, right, len(words) == 3))
    _refuse(file, problems, "Expected `name i j` (same person) or `name i other j` (two people).")
    expected = int(header[-1]) * (int(header[0]) if len(header) == 2 else 1)
    n_same = sum(pair.same for pair in pairs)
    if (n_same, len(pairs) - n_same) != (expected, expected):
        raise ManifestError(
            f"{file}, line {lines[0].number}: {lines[0].text!r} announces {expected} pairs of one person and as many "
            f"of two; found {n_same} and {len(pairs) - n_same}. Is the list cut short?"
        )
    return pairs


def _parse_two_lines(file: Path, lines: Sequence[_Line]) -> list[_Pair]:
    entries, problems = [], []
    for line in lines:
        name, _, flag = line.text.replace("\t", " ").rpartition(" ")
        name = name.rstrip()
        if not _is_image(name) or not _is_number(flag):
            problems.append((line.number, f"{line.text[:200]!r}"))
        elif int(flag) > _MAX_FLAG:
            problems.append((line.number, f"the flag {flag}"))
        else:
            entries.append((line.number, name, int(flag)))
    _refuse(file, problems, f"Expected `<image> <flag>` with a flag from 0 to {_MAX_FLAG}.")
    if len(entries) % 2:
        raise ManifestError(
            f"{file}: {len(entries)} lines, an odd number, so that line {entries[-1][0]} has no partner; two lines are "
            "a pair. Is the list cut short?"
        )
    pairs = []
    for (number, left, fold), (second, right, other) in zip(entries[::2], entries[1::2], strict=True):
        if fold != other:
            problems.append((number, f"the flag {fold}, and in line {second} {other}"))
        pairs.append(_Pair(number, left, right, fold > 0))
    _refuse(file, problems, "The two lines of a pair must have the same flag.")
    return pairs


def _parse_labelled(file: Path, lines: Sequence[_Line], *, label_first: bool) -> list[_Pair]:
    form = "`<1|0> <left> <right>`" if label_first else "`<left> <right> <1|0>`"
    entries, labels, columns = [], [], []
    for line in lines:
        text = line.text.replace("\t", " ")
        label, _, names = text.partition(" ") if label_first else text.rpartition(" ")[::-1]
        if " " not in names.strip():
            columns.append((line.number, f"{line.text[:200]!r}"))
        elif label not in ("0", "1"):
            labels.append((line.number, f"the label {label[:50]!r}"))
        else:
            entries.append((line.number, names.strip(), label == "1"))
    _refuse(file, columns, f"Expected {form}.")
    _refuse(file, labels, f"Expected {form}: label 1 where both images show one person, 0 where they do not.")
    shared = _shared_folder([names for _, names, _ in entries])
    pairs, problems = [], []
    for number, names, same in entries:
        cuts = _cuts(names, shared)
        beginning = _incomplete_beginning(names, shared) if label_first and not cuts else None
        if len(cuts) == 1:
            pairs.append(_Pair(number, *cuts[0], same))
        elif beginning is not None:
            pairs.append(_Pair(number, beginning, None, same))
        else:
            why = f"which can be cut in {len(cuts)} ways" if cuts else "not two names of images"
            problems.append((number, f"{names[:200]!r}, {why}"))
    ending = f"two images ending in {' '.join(IMAGE_ENDINGS)}"
    _refuse(file, problems, f"Expected {form}, {ending}" + (f", below {shared}/." if shared else "."))
    return pairs


def _shared_folder(lines: Sequence[str]) -> str:
    """Find the folder that all paths of the unambiguous lines share: those of just two names of images."""
    shared: list[str] | None = None
    for names in lines:
        words = names.split()
        if len(words) == 2 and all(map(_is_image, words)):
            for word in words:
                parts = word.split("/")[:-1]
                limit = parts if shared is None else shared
                same = [a == b for a, b in zip(limit, parts, strict=False)]
                shared = limit[: same.index(False) if False in same else len(same)]
    return "/".join(shared or [])


def _cuts(names: str, shared: str) -> list[tuple[str, str]]:
    """All ways to cut a line into two names of images below the shared folder, or below the nearest one above it."""
    ways = []
    for blank in re.finditer(" +", names):
        left, right = names[: blank.start()], names[blank.end() :]
        if _is_image(left) and _is_image(right):
            ways.append((left, right))
    if len(ways) == 1:
        return ways
    folders = shared.split("/") if shared else []
    for depth in range(len(folders), 0, -1):
        start = "/".join(folders[:depth]) + "/"
        below = [way for way in ways if all(path.startswith(start) for path in way)]
        if below:
            return below
    return [] if folders else ways


def _incomplete_beginning(names: str, shared: str) -> str | None:
    """The known beginning of the left path, where a line is of the kind that `read_pairs` describes."""
    words = names.split(" ")
    if len(words) != 2 or any(map(_is_image, words)) or "/" not in shared:
        return None
    folder, _, word = words[1].rpartition("/")
    if not words[0].startswith(f"{shared}/") or not folder or not shared.startswith(f"{folder}/"):
        return None
    return f"{words[0]} {word}"


def _settle_incomplete(file: Path, lines: Sequence[_Line], pairs: list[_Pair], incomplete: str) -> list[_Pair]:
    if incomplete == "error":
        lost = [(pair.line, f"{pair.left!r} ...") for pair in pairs if pair.right is None]
        _refuse(
            file,
            lost,
            "These lines are cut off at a blank in the first name: its end and the whole second name are lost. Leave "
            "them out with incomplete='drop', or compare the images before once more, as the official code does, with "
            "incomplete='official'.",
        )
    if incomplete == "drop":
        return [pair for pair in pairs if pair.right is not None]
    if incomplete == "keep":
        return pairs
    text = {line.number: line.text for line in lines}
    filled, last = {}, None
    for pair in sorted(pairs, key=lambda pair: text[pair.line] + "\n"):
        if pair.right is not None:
            last = pair
        elif last is None:
            raise ManifestError(
                f"{file}, line {pair.line}: the line is incomplete, and in the order of the official code no pair "
                "stands before it. Leave it out with incomplete='drop'."
            )
        else:
            filled[pair.line] = replace(pair, left=last.left, right=last.right)
    return [filled.get(pair.line, pair) for pair in pairs]


def _check_paths(file: Path, pairs: Sequence[_Pair]) -> None:
    problems = [
        (pair.line, f"the path {path[:200]!r}")
        for pair in pairs
        for path in (pair.left, pair.right)
        if path is not None and _NOT_RELATIVE.search(path)
    ]
    _refuse(file, problems, "Paths must be relative, with forward slashes, and without `.`, `..` or empty parts.")


def _check_pairs(file: Path, pairs: Sequence[_Pair], duplicates: str) -> None:
    with_itself = [(pair.line, f"{pair.left!r} with itself") for pair in pairs if pair.left == pair.right]
    _refuse(file, with_itself, "A pair needs two images.")
    first: dict[frozenset[str | None], _Pair] = {}
    repeated: list[tuple[int, str]] = []
    contradictory: list[tuple[int, str]] = []
    for pair in pairs:
        before = first.setdefault(frozenset((pair.left, pair.right)), pair)
        if before is not pair:
            found = (pair.line, f"{pair.left} and {pair.right}, as in line {before.line}")
            (repeated if before.same == pair.same else contradictory).append(found)
    _refuse(file, contradictory, "They stand there with the other label: one of the two lines is wrong.")
    if duplicates == "error":
        _refuse(file, repeated, "Each pair may stand once: correct the list, or keep repeats with duplicates='keep'.")


def _refuse(file: Path, problems: Sequence[tuple[int, str]], advice: str) -> None:
    """Raise a ManifestError that names up to ten lines and the number of all; nothing where there is no problem."""
    if not problems:
        return
    found = "; ".join(f"line {number}: {what}" for number, what in problems[:_MAX_NAMED])
    more = f"; and {len(problems) - _MAX_NAMED} more, {len(problems)} in all" if len(problems) > _MAX_NAMED else ""
    raise ManifestError(f"{file}, {found}{more}. {advice}")

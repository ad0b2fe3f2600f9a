"""Lists of pairs in every layout, the facts known of the official ones, and what is refused."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pandas as pd
import pytest

from interproto_lib.data.formats import describe_images, read_pairs
from interproto_lib.errors import ConfigError, InterprotoError, ManifestError
from tests.conftest import REPO

OFFICIAL = REPO.parent / "shared" / "reference" / "child_adult_pairs"
needs_official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"the official pair lists are not in {OFFICIAL}")

INCOMPLETE_LINES = [957, 993, 1348, 1393, 1509, 1691, 1709, 2066, 2143, 2154, 2258, 2260, 2313, 2498, 2802, 2837, 3311]

CHILD_ADULT = """1 dataset/test/AgeDB-aligned/A/1_A_5.jpg dataset/test/AgeDB-aligned/A/2_A_40.jpg
0 dataset/test/AgeDB-aligned/A/1_A_5.jpg dataset/test/AgeDB-aligned/ClaudeLВviStrauss/3_ClaudeLВviStrauss_42.jpg
"""
LFW = "1\t2\nA_B\t1\t4\nC\t2\t10\nA_B\t1\tC\t3\nC\t10000\tA_B\t2\n"
TWO_LINES = "A_0001.jpg 3\nA_0002.jpg 3\nA_0001.jpg 0\nB_0004.jpg 0\n"
LABELLED = "agedb_30/0.jpg agedb_30/1.jpg 1\nagedb_30/0.jpg agedb_30/2.jpg 0\n"


def write(folder: Path, text: str | bytes, name: str = "pairs.txt") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return file


def rows(table: pd.DataFrame) -> list[tuple[str, str, bool, int]]:
    return list(table[["left", "right", "same", "line"]].itertuples(index=False, name=None))


def images(table: pd.DataFrame) -> list[str]:
    return pd.unique(pd.concat([table["left"], table["right"]])).tolist()


# The official lists: counts as published in the facts, found by other means than this reader.


@needs_official
@pytest.mark.parametrize(
    ("name", "layout", "n_pairs", "n_images", "n_identities", "n_in_positives", "n_children", "gaps"),
    [
        ("agedb20_child", "agedb", 3786, 3041, 530, 63, 94, (20, 90)),
        ("agedb30_child", "agedb", 2778, 2244, 509, 62, 94, (30, 90)),
        ("fgnet20_child", "fgnet", 1034, 631, 82, 47, 358, (20, 69)),
        ("fgnet30_child", "fgnet", 372, 338, 78, 32, 211, (30, 61)),
    ],
)
def test_counts_of_the_official_lists(
    name: str,
    layout: str,
    n_pairs: int,
    n_images: int,
    n_identities: int,
    n_in_positives: int,
    n_children: int,
    gaps: tuple[int, int],
):
    table = read_pairs(OFFICIAL / f"{name}.txt")
    assert (len(table), int(table["same"].sum())) == (n_pairs, n_pairs // 2)
    assert table["line"].tolist() == list(range(1, n_pairs + 1))
    described = describe_images(images(table), layout).set_index("path")
    assert len(described) == n_images
    assert described["identity"].nunique() == n_identities
    assert int((described["age_years"] < 13).sum()) == n_children
    left, right = described.loc[table["left"]].reset_index(), described.loc[table["right"]].reset_index()
    assert left.loc[table["same"], "identity"].nunique() == n_in_positives
    assert ((left["identity"] == right["identity"]) == table["same"]).all()
    assert (left["age_years"] < 13).all()
    gap = right["age_years"] - left["age_years"]
    assert (gap.min(), gap.max()) == gaps
    if layout == "agedb":
        assert (left["age_years"].min(), left["age_years"].max()) == (1, 12)


@needs_official
def test_positives_of_agedb_30_are_those_of_agedb_20_with_a_gap_of_30_years():
    sets = []
    for name in ("agedb20_child", "agedb30_child"):
        table = read_pairs(OFFICIAL / f"{name}.txt")
        ages = describe_images(images(table), "agedb").set_index("path")["age_years"]
        gap = ages.loc[table["right"]].to_numpy() - ages.loc[table["left"]].to_numpy()
        chosen = table[table["same"] & (gap >= 30)]
        sets.append(set(zip(chosen["left"], chosen["right"], strict=True)))
    assert len(sets[0]) == 1389
    assert sets[0] == sets[1]


@needs_official
def test_positives_of_fgnet_are_all_pairs_that_the_rule_allows():
    for name, min_gap, n_positives in (("fgnet20_child", 20, 517), ("fgnet30_child", 30, 186)):
        table = read_pairs(OFFICIAL / f"{name}.txt")
        described = describe_images(images(read_pairs(OFFICIAL / "fgnet20_child.txt")), "fgnet")
        expected = set()
        for _, person in described.groupby("identity"):
            people = zip(person["path"], person["age_years"], strict=True)
            for (one, age), (other, other_age) in itertools.permutations(people, 2):
                if age < 13 and other_age - age >= min_gap:
                    expected.add((one, other))
        positives = table[table["same"]]
        assert set(zip(positives["left"], positives["right"], strict=True)) == expected
        assert len(expected) == n_positives


@needs_official
def test_both_lists_of_agedb_share_their_images():
    named = [images(read_pairs(OFFICIAL / f"{name}.txt")) for name in ("agedb20_child", "agedb30_child")]
    assert len(set(named[0]) | set(named[1])) == 4097


@needs_official
def test_letters_outside_ascii_are_kept():
    table = read_pairs(OFFICIAL / "agedb20_child.txt")
    foreign = [path for path in images(table) if not path.isascii()]
    assert len(foreign) == 14
    assert "dataset/test/AgeDB-aligned/ClaudeLВviStrauss/1231_ClaudeLВviStrauss_42.jpg" in foreign
    lag = read_pairs(OFFICIAL / "lag.txt")
    expected = "dataset/test/LAG-aligned/kate_middleton/y/Кейт-Мідлтон_2.png"
    assert lag.loc[lag["line"] == 1304, "left"].item() == expected


@needs_official
def test_lag_has_17_incomplete_lines():
    table = read_pairs(OFFICIAL / "lag.txt")
    assert (len(table), int(table["same"].sum())) == (3400, 1700)
    lost = table[table["right"].isna()].set_index("line")["left"]
    assert lost.index.tolist() == INCOMPLETE_LINES
    start = "dataset/test/LAG-aligned"
    assert lost.str.startswith(f"{start}/").all()
    assert lost[993] == f"{start}/michael_schumacher/y/michael schumacher"
    assert lost[2498] == f"{start}/natasha_poly/y/Childhood model"
    cyrillic = f"{start}/george_clooney/y/сейчасч2-тогда-Знаменитости-красивые фотографии-необычные"
    assert lost[957] == lost[2066] == cyrillic
    whole = table[table["right"].notna()]
    described = describe_images(images(whole), "lag")
    assert (len(whole), len(described), described["identity"].nunique()) == (3383, 3685, 1006)
    young = described.set_index("path")["young"]
    assert young.loc[whole["left"]].all()
    assert not young.loc[whole["right"]].any()
    assert rows(read_pairs(OFFICIAL / "lag.txt", incomplete="drop")) == rows(whole)


@needs_official
def test_lag_as_the_official_code_reads_it():
    """Its procedure written anew: lines sorted, the last images kept where a line holds no ".png"."""
    text = (OFFICIAL / "lag.txt").read_text(encoding="utf-8")
    left = right = ""
    expected = []
    for line in sorted(text.splitlines(keepends=True)):
        label, pair = line.split(" ", 1)
        if "png" in pair:
            left, right = pair.split(".png ")
            left, right = left + ".png", right[:-1]
        expected.append((left, right, label == "1"))
    found = read_pairs(OFFICIAL / "lag.txt", incomplete="official")
    assert found["line"].tolist() == list(range(1, 3401))
    assert sorted(expected) == sorted(found[["left", "right", "same"]].itertuples(index=False, name=None))


@needs_official
def test_incomplete_lines_can_be_refused():
    with pytest.raises(ManifestError, match=r"lag\.txt, line 957: .*line 2154: .*7 more, 17 in all.*incomplete='drop'"):
        read_pairs(OFFICIAL / "lag.txt", incomplete="error")


# The layouts, by cases written by hand.


@pytest.mark.parametrize("layout", ["auto", "child_adult"])
@pytest.mark.parametrize("change", ["plain", "windows", "mark", "tabs", "blank lines"])
def test_child_adult(tmp_path: Path, layout: str, change: str):
    text = CHILD_ADULT
    if change == "windows":
        text = text.replace("\n", "\r\n")
    elif change == "mark":
        text = "\ufeff" + text
    elif change == "tabs":
        text = text.replace(" ", "\t")
    elif change == "blank lines":
        text = text.rstrip() + "\n\n \n"
    start = "dataset/test/AgeDB-aligned"
    assert rows(read_pairs(write(tmp_path, text), layout=layout)) == [
        (f"{start}/A/1_A_5.jpg", f"{start}/A/2_A_40.jpg", True, 1),
        (f"{start}/A/1_A_5.jpg", f"{start}/ClaudeLВviStrauss/3_ClaudeLВviStrauss_42.jpg", False, 2),
    ]


def test_names_with_blanks_are_cut_where_the_shared_folder_starts_again(tmp_path: Path):
    text = (
        "1 t/L/a/y/one.png t/L/a/two.png\n"
        "0 t/L/a/y/michael  schumacher 2.png t/L/b b/it is.png not.png\n"
        "0 t/L/a/y/q.png r.png t/L/c/s.png\n"
    )
    found = rows(read_pairs(write(tmp_path, text)))
    assert found[1:] == [
        ("t/L/a/y/michael  schumacher 2.png", "t/L/b b/it is.png not.png", False, 2),
        ("t/L/a/y/q.png r.png", "t/L/c/s.png", False, 3),
    ]


def test_a_line_that_can_be_cut_in_two_ways_is_refused(tmp_path: Path):
    with pytest.raises(ManifestError, match=r"line 2: 'a\.png b\.png c\.png', which can be cut in 2 ways"):
        read_pairs(write(tmp_path, "1 x.png y.png\n0 a.png b.png c.png\n"))


def test_incomplete_lines_are_told_from_wrong_ones(tmp_path: Path):
    start = "1 t/L/a/y/one.png t/L/a/two.png\n0 t/L/b/y/one.png t/L/a/two.png\n"
    table = read_pairs(write(tmp_path, start + "1 t/L/c/y/first t/word\n"))
    assert table["left"].iloc[2] == "t/L/c/y/first word"
    assert pd.isna(table["right"].iloc[2])
    for line in ("1 t/L/c/y/first u/word", "1 t/L/c/y/first word", "1 u/first t/word", "1 t/L/c/first t/word.png"):
        with pytest.raises(ManifestError, match=r"line 3: .*not two names of images"):
            read_pairs(write(tmp_path, start + line))
    with pytest.raises(ManifestError, match=r"line 1: the line is incomplete, and in the order of the official code"):
        read_pairs(write(tmp_path, "0 t/L/a/first t/word\n0 t/L/b/y.png t/L/c/x.png\n"), incomplete="official")


def test_lfw(tmp_path: Path):
    expected = [
        ("A_B/A_B_0001.jpg", "A_B/A_B_0004.jpg", True, 2),
        ("C/C_0002.jpg", "C/C_0010.jpg", True, 3),
        ("A_B/A_B_0001.jpg", "C/C_0003.jpg", False, 4),
        ("C/C_10000.jpg", "A_B/A_B_0002.jpg", False, 5),
    ]
    assert rows(read_pairs(write(tmp_path, LFW))) == expected
    assert rows(read_pairs(write(tmp_path, LFW.replace("1\t2\n", "2\n", 1)), layout="lfw")) == expected
    for header in ("10\t300", "3", "1\t1"):
        with pytest.raises(ManifestError, match=r"line 1: .* announces \d+ pairs .* found 2 and 2"):
            read_pairs(write(tmp_path, LFW.replace("1\t2", header, 1)))
    for line, what in (("A 1", "'A 1'"), ("A x 2", "'A x 2'"), ("A 1 B 2 3", "'A 1 B 2 3'"), ("A 1 A 2", "A twice")):
        with pytest.raises(ManifestError, match=f"line 6: {what}"):
            read_pairs(write(tmp_path, LFW + line))
    with pytest.raises(ManifestError, match=r"line 1: found .* a list of LFW starts with"):
        read_pairs(write(tmp_path, LFW.split("\n", 1)[1]), layout="lfw")
    with pytest.raises(ManifestError, match="A list of LFW starts with a line of its number"):
        read_pairs(write(tmp_path, LFW.split("\n", 1)[1]))


def test_two_lines(tmp_path: Path):
    assert rows(read_pairs(write(tmp_path, TWO_LINES))) == [
        ("A_0001.jpg", "A_0002.jpg", True, 1),
        ("A_0001.jpg", "B_0004.jpg", False, 3),
    ]
    with pytest.raises(ManifestError, match=r"line 1: the flag 3, and in line 2 0. The two lines"):
        read_pairs(write(tmp_path, TWO_LINES.replace("A_0002.jpg 3", "A_0002.jpg 0")))
    with pytest.raises(ManifestError, match="5 lines, an odd number, so that line 5 has no partner"):
        read_pairs(write(tmp_path, TWO_LINES + "C_0001.jpg 0\n"))
    with pytest.raises(ManifestError, match=r"line 1: the flag 11; line 2: the flag 11.*0 to 10"):
        read_pairs(write(tmp_path, TWO_LINES.replace(" 3", " 11")))
    with pytest.raises(ManifestError, match=r"line 2: 'A_0002.jpg'"):
        read_pairs(write(tmp_path, TWO_LINES.replace("A_0002.jpg 3", "A_0002.jpg")))


def test_labelled(tmp_path: Path):
    expected = [("agedb_30/0.jpg", "agedb_30/1.jpg", True, 1), ("agedb_30/0.jpg", "agedb_30/2.jpg", False, 2)]
    assert rows(read_pairs(write(tmp_path, LABELLED))) == expected
    assert rows(read_pairs(write(tmp_path, LABELLED), layout="labelled")) == expected
    with pytest.raises(ManifestError, match=r"line 1: the label 'agedb_30/0.jpg'"):
        read_pairs(write(tmp_path, LABELLED), layout="child_adult")


# What is refused.


@pytest.mark.parametrize("label", ["2", "-1", "True", "01", "1.0", "١"])
def test_labels_other_than_0_and_1(tmp_path: Path, label: str):
    with pytest.raises(ManifestError, match=rf"pairs.txt, line 3: the label '{label}'"):
        read_pairs(write(tmp_path, CHILD_ADULT + f"{label} dataset/test/a.jpg dataset/test/b.jpg\n"))


def test_all_wrong_lines_are_counted(tmp_path: Path):
    wrong = "".join(f"2 d/{number}.jpg d/x.jpg\n" for number in range(13))
    with pytest.raises(ManifestError, match=r"line 12: the label '2'; and 3 more, 13 in all"):
        read_pairs(write(tmp_path, CHILD_ADULT + wrong))


@pytest.mark.parametrize("swapped", [False, True])
def test_repeated_pairs(tmp_path: Path, swapped: bool):
    images_of_first = "a/2.jpg a/1.jpg" if swapped else "a/1.jpg a/2.jpg"
    text = "1 a/1.jpg a/2.jpg\n0 a/1.jpg a/3.jpg\n"
    with pytest.raises(ManifestError, match=r"line 3: .*as in line 1. Each pair may stand once"):
        read_pairs(write(tmp_path, f"{text}1 {images_of_first}\n"))
    assert len(read_pairs(write(tmp_path, f"{text}1 {images_of_first}\n"), duplicates="keep")) == 3
    with pytest.raises(ManifestError, match=r"line 3: .*as in line 1. They stand there with the other label"):
        read_pairs(write(tmp_path, f"{text}0 {images_of_first}\n"), duplicates="keep")


def test_an_image_with_itself(tmp_path: Path):
    with pytest.raises(ManifestError, match=r"line 2: 'a/3.jpg' with itself"):
        read_pairs(write(tmp_path, "1 a/1.jpg a/2.jpg\n0 a/3.jpg a/3.jpg\n"))


@pytest.mark.parametrize(("label", "found"), [(0, "of two people"), (1, "of one person")])
def test_one_class_only(tmp_path: Path, label: int, found: str):
    with pytest.raises(ManifestError, match=f"all 2 pairs are {found}"):
        read_pairs(write(tmp_path, f"{label} a/1.jpg a/2.jpg\n{label} a/1.jpg a/3.jpg\n"))


@pytest.mark.parametrize(
    "path", ["/a/1.jpg", "../a/1.jpg", "a/../1.jpg", "a//1.jpg", "./1.jpg", "C:/1.jpg", "a\\1.jpg"]
)
def test_paths_that_leave_the_folder(tmp_path: Path, path: str):
    with pytest.raises(ManifestError, match=r"line 2: the path .*Paths must be relative"):
        read_pairs(write(tmp_path, f"1 a/2.jpg a/3.jpg\n0 {path} a/2.jpg\n"))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"\n \r\n", "is empty"),
        (b"hello\n", "line 1: found 'hello', which is none of the layouts"),
        (b"a.jpg b.jpg\n", "line 1: 'a.jpg b.jpg'. Expected `<1|0> <left> <right>`"),
        (CHILD_ADULT.encode() + b"0 d/\xe9.jpg d/b.jpg", "line 3: the text is not UTF-8"),
        (CHILD_ADULT.encode("utf-16"), "line 1: the text is not UTF-8"),
        (b"1 a/1.jpg a/\x002.jpg\n", "line 1: .*control characters"),
        (b"1 a/1.jpg a/2.jpg\n0 a/1.jpg\n", "line 2: '0 a/1.jpg'. Expected `<1|0> <left> <right>`"),
        (b"1 a/1.jpg a/2.jpg\n0 a/1.jpg a/2.gif\n", "line 2: .*not two names of images"),
    ],
)
def test_other_content(tmp_path: Path, content: bytes, what: str):
    with pytest.raises(ManifestError, match=what.replace("|", r"\|")):
        read_pairs(write(tmp_path, content))


def test_arguments_and_missing_files(tmp_path: Path):
    with pytest.raises(ManifestError, match="There is no pair list"):
        read_pairs(tmp_path / "absent.txt")
    file = write(tmp_path, CHILD_ADULT)
    for setting in ("layout", "duplicates", "incomplete"):
        with pytest.raises(ConfigError, match=f"{setting} is 'x', expected one of"):
            read_pairs(file, **{setting: "x"})


@pytest.mark.parametrize("text", [CHILD_ADULT, LFW, TWO_LINES, LABELLED], ids=["child_adult", "lfw", "two", "labelled"])
def test_mutated_lists_give_pairs_or_a_named_error(tmp_path: Path, text: str):
    draw = random.Random(7)
    pieces = [b"", b" ", b"\n", b"\t", b"0", b"\xff", b"/", b"."]
    n_refused = 0
    for _ in range(150):
        content = bytearray(text.encode())
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(content))
            content[place : place + draw.randint(0, 3)] = draw.choice(pieces)
        try:
            table = read_pairs(write(tmp_path, bytes(content)))
        except InterprotoError:
            n_refused += 1
        else:
            assert table["same"].any()
            assert not table["same"].all()
            assert (table["left"] != table["right"]).all()
    assert n_refused > 0

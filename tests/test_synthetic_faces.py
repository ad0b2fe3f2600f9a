"""The drawn faces: hashing, identities, ageing and the renderer, against references written here."""

import ast
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from interproto_lib.data.synthetic import SyntheticSettings, contact_sheet, draw_faces
from interproto_lib.data.synthetic.ageing import person_at_age, shape_at_age
from interproto_lib.data.synthetic.camera import _forward8, _inverse8
from interproto_lib.data.synthetic.canvas import TEMPLATE, Canvas
from interproto_lib.data.synthetic.hashing import normals, uniforms
from interproto_lib.data.synthetic.identities import SHAPE_NAMES, SHAPE_PARAMETERS, draw_identities
from interproto_lib.data.synthetic.renderer import _faces
from interproto_lib.errors import ConfigError

PACKAGE = Path(__file__).parents[1] / "interproto_lib" / "data" / "synthetic"

# Every feature is in this batch: both sexes, all ages, all things worn or held.
WHO = np.repeat(np.arange(20), 3)
WHICH = np.tile([0, 4, 9], 20)
AGE = np.linspace(1.0, 80.0, 60)[(np.arange(60) * 37) % 60]
STRONG = SyntheticSettings(nuisance=1.5, seed=3)
DIGESTS = {
    56: "887d0221114a537fc06cec22a0ba96a7bf145516ebeca1a62c5f0b1c8dd1c41b",
    112: "b42b710383d160c99a2ffa788f08f96b1f2d3e20b8b9afd7ed0d59666cb5fd53",
}


def digest(images):
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


def splitmix64(state):
    """The finaliser on whole numbers of Python: state + golden ratio, then two rounds of shift and multiply."""
    z = (state + 0x9E3779B97F4A7C15) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return z ^ (z >> 31)


def test_hashing_is_splitmix64_of_key_and_counter():
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # first output of the published generator for seed 0
    state = 0x243F6A8885A308D3
    for part in (5, 123456):
        state = splitmix64(state ^ part)
    expected = [(splitmix64((state + k * 0xD1342543DE82EF95) & (2**64 - 1)) >> 11) * 2.0**-53 for k in range(1, 6)]
    assert uniforms(5, [9, 123456], count=5)[1].tolist() == expected


def test_normals_have_mean_0_variance_1_and_are_uncorrelated():
    z = normals(1, np.arange(20000), count=3)
    assert np.abs(z.mean(0)).max() < 0.03
    np.testing.assert_allclose(np.cov(z.T), np.eye(3), atol=0.04)
    assert np.abs(z).max() <= 2.0 * 3.0**0.5


def test_shape_follows_the_formula():
    ages = np.array([0.0, 3.0, 7.5, 14.0, 20.0, 30.0, 50.0, 78.0])
    people = draw_identities(np.arange(8) + 40, seed=2)
    shape = shape_at_age(people, ages, amplitude=1.2, child_amplitude_floor=0.25)
    for row, age in enumerate(ages):
        t = min(age / 20.0, 1.0)
        grown = 3 * t**2 - 2 * t**3
        t = min(max((age - 9.0) / 9.0, 0.0), 1.0)
        sex = (3 * t**2 - 2 * t**3) * (1 if people.male[row] else -1)
        t = min(max((age - 38.0) / 37.0, 0.0), 1.0)
        old = 0.5 * (t + t**2) * (0.75 + 0.5 * people.pace[row])
        for column, p in enumerate(SHAPE_PARAMETERS):
            mean = p.child * (1 - grown) + p.adult * grown + p.old * old + p.male * sex
            floor = 0.25 + 0.75 * p.persistence
            scale = floor + (1 - floor) * grown
            unrelated = 0.25 * (1 - grown)
            deviation = (1 - unrelated) * people.adult[row, column] + unrelated * people.child[row, column]
            expected = min(max(mean + 1.2 * p.spread * scale * deviation, p.lowest), p.highest)
            assert shape[row, column] == pytest.approx(expected, rel=1e-12, abs=1e-12), (age, p.name)


def test_children_differ_less_than_adults_as_the_formula_says():
    n = 4000
    people = draw_identities(np.arange(n), seed=1)
    free = [c for c, p in enumerate(SHAPE_PARAMETERS) if p.lowest == -np.inf and p.male == 0.0 and p.spread > 0.0]
    assert len(free) >= 6
    variance = {age: shape_at_age(people, np.full(n, age))[:, free].var(axis=0) for age in (4.0, 25.0)}
    grown = 3 * 0.2**2 - 2 * 0.2**3
    for place, column in enumerate(free):
        p = SHAPE_PARAMETERS[column]
        floor = 0.3 + 0.7 * p.persistence
        unrelated = 0.25 * (1 - grown)
        ratio = (floor + (1 - floor) * grown) ** 2 * ((1 - unrelated) ** 2 + unrelated**2)
        assert variance[25.0][place] == pytest.approx(p.spread**2, rel=0.12)
        assert variance[4.0][place] / variance[25.0][place] == pytest.approx(ratio, rel=0.12)
        assert variance[4.0][place] < 0.6 * variance[25.0][place]


def test_age_moves_the_mean_face():
    n = 300
    people = draw_identities(np.arange(n))
    look = {age: person_at_age(people, np.full(n, age)) for age in (3.0, 10.0, 28.0, 72.0)}
    mean = {age: {name: values.mean(axis=0) for name, values in of.items()} for age, of in look.items()}
    for name, signs in {"eye_height": "---", "chin_y": "++", "nose_length": "+++", "mouth_y": "+++"}.items():
        for (younger, older), sign in zip([(3.0, 10.0), (10.0, 28.0), (28.0, 72.0)], signs, strict=False):
            assert (mean[older][name] > mean[younger][name]) == (sign == "+"), (name, older)
    assert mean[72.0]["nose_fold"] > 2 * mean[28.0]["nose_fold"]
    assert mean[72.0]["grey"] > 0.5 > 0.01 > mean[28.0]["grey"]
    assert mean[3.0]["beard"] == mean[10.0]["beard"] == mean[10.0]["bald"] == 0.0
    assert (look[28.0]["mole_strength"] >= look[3.0]["mole_strength"]).all()


def test_old_skin_has_more_fine_contrast_than_young_skin():
    calm = SyntheticSettings(nuisance=0.0, seed=5)
    who = np.arange(24)
    fine = {}
    for age in (25.0, 75.0):
        cheeks = draw_faces(who, who * 0, np.full(24, age), settings=calm, image_size=112)[:, 74:90, 30:82].astype(
            float
        )
        fine[age] = np.abs(np.diff(cheeks, axis=2)).mean()
    assert fine[75.0] > 1.08 * fine[25.0]


@pytest.mark.parametrize("size", [56, 112])
def test_bytes_are_the_committed_ones(size):
    assert digest(draw_faces(WHO, WHICH, AGE, settings=STRONG, image_size=size)) == DIGESTS[size]


def test_bytes_do_not_depend_on_vector_units():
    """Without any vector unit that numpy can do without, in a process of its own."""
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_synthetic_faces as t; "
        "print(t.digest(t.draw_faces(t.WHO, t.WHICH, t.AGE, settings=t.STRONG, image_size=56)))"
    )
    units = "X86_V4 X86_V3 AVX512_ICL AVX512_SPR AVX512_SKX AVX512_CNL AVX512_CLX AVX512CD AVX512F AVX2 FMA3 ASIMDHP"
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": units, "PYTHONPATH": str(PACKAGE.parents[2])}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(
        command, env=environment, cwd=PACKAGE.parents[2], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split()[-1] == DIGESTS[56]


def test_bytes_do_not_depend_on_batch_or_order():
    together = draw_faces(WHO, WHICH, AGE, settings=STRONG)
    for step in (1, 7):
        parts = [
            draw_faces(WHO[i : i + step], WHICH[i : i + step], AGE[i : i + step], settings=STRONG)
            for i in range(0, 60, step)
        ]
        assert np.array_equal(np.concatenate(parts), together)
    order = (np.arange(60) * 23) % 60
    assert np.array_equal(draw_faces(WHO[order], WHICH[order], AGE[order], settings=STRONG), together[order])


def test_faces_differ_by_identity_image_age_and_seed():
    def draw(who=1, which=2, age=30.0, **more):
        return draw_faces(who, which, age, settings=SyntheticSettings(**more))

    base = draw()
    for other in (draw(who=2), draw(which=3), draw(age=60.0), draw(seed=1), draw(amplitude=0.5), draw(nuisance=0.2)):
        assert not np.array_equal(other, base)
    assert np.array_equal(draw(), base)
    assert np.array_equal(draw(child_amplitude_floor=0.9), base)  # concerns children only


BANNED_CALLS = [
    "sin",
    "cos",
    "tan",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log1p",
    "log10",
    "power",
    "float_power",
    "pow",
    "cbrt",
    "hypot",
    "arctan",
    "arctan2",
    "tanh",
    "sinh",
    "cosh",
    "sum",
    "fsum",
    "mean",
    "std",
    "var",
    "dot",
    "matmul",
    "einsum",
    "inner",
    "vdot",
    "tensordot",
    "convolve",
    "prod",
    "cumsum",
    "cumprod",
    "average",
    "trapezoid",
    "interp",
    "percentile",
    "quantile",
    "reciprocal",
    "logaddexp",
    "default_rng",
]


def test_only_exact_operations_are_used():
    """No function of the mathematical library, no stream of random numbers, no reduction whose order may vary."""
    n_calls = 0
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.MatMult | ast.Pow), f"{path.name} uses @ or **"
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
                assert name not in BANNED_CALLS, f"{path.name}:{node.lineno} calls {name}"
                n_calls += 1
    assert n_calls > 500


def test_calm_faces_lie_on_the_template():
    calm = SyntheticSettings(nuisance=0.0, amplitude=0.0)
    face = next(_faces(np.array([0]), np.array([0]), np.array([30.0]), calm))
    for size in (56, 112):
        canvas = Canvas(face, size)
        eye, mouth = face.eye_distance, face.mouth_width
        places = [(-eye, 0.0), (eye, 0.0), (0.0, face.nose_length), (-mouth, face.mouth_y), (mouth, face.mouth_y)]
        for (x, y), (column, row) in zip(places, TEMPLATE, strict=True):
            # Pixel centres: column c of the template is element (c + 0.5) * size / 112 - 0.5.
            c, r = (column + 0.5) * size / 112 - 0.5, (row + 0.5) * size / 112 - 0.5
            i, j = round(r), round(c)
            found = canvas.x[i, j] + (c - j) / canvas.scale, canvas.y[i, j] + (r - i) / canvas.scale
            assert np.hypot(found[0] - x, found[1] - y) * canvas.scale * 112 / size < 1.6


def test_pupils_are_dark_and_where_the_template_says():
    calm = SyntheticSettings(nuisance=0.0, amplitude=0.3)
    images = draw_faces(np.arange(30), np.zeros(30), np.full(30, 8.0), settings=calm, image_size=112).astype(float)
    mean = images.mean(axis=(0, 3))
    for column, row in TEMPLATE[:2]:
        pupil = mean[int(row) - 1 : int(row) + 3, int(column) - 1 : int(column) + 3].mean()
        cheek = mean[70:76, int(column) - 3 : int(column) + 3].mean()
        assert pupil < 0.6 * cheek


def test_turning_the_other_way_mirrors_the_coordinates():
    face = next(_faces(np.array([4]), np.array([1]), np.array([30.0]), SyntheticSettings(nuisance=1.0)))
    face.jitter, face.eye_asymmetry, face.mouth_tilt, face.pitch = [0.0] * 10, 0.0, 0.0, 0.1
    face.yaw = 0.2
    right = Canvas(face, 112)
    face.yaw = -0.2
    left = Canvas(face, 112)
    assert np.abs(right.x).max() > 1.0
    # The template itself is not quite symmetric: its middle is 0.4 pixels beside the image's, and a little turned.
    np.testing.assert_allclose(right.x[:, ::-1], -left.x, atol=0.08)
    np.testing.assert_allclose(right.y[:, ::-1], left.y, atol=0.08)
    assert np.abs(right.x[:, ::-1] + right.x).max() > 0.2


def test_windows_hold_all_pixels_of_their_rectangle():
    rows = np.arange(40)
    for face in _faces(rows, rows, np.linspace(1, 70, 40), SyntheticSettings(nuisance=2.0)):
        canvas = Canvas(face, 112)
        for left, right, top, bottom in ((-0.8, 0.8, -0.2, 0.3), (0.2, 0.6, 0.8, 1.3), (-0.4, -0.1, -0.5, 0.0)):
            inside = (canvas.x > left) & (canvas.x < right) & (canvas.y > top) & (canvas.y < bottom)
            missed = inside.copy()
            missed[canvas.window(left, right, top, bottom)] = False
            assert inside.any()
            assert not missed.any()


def test_block_transform_is_the_cosine_transform_and_its_inverse():
    k = np.arange(8)
    matrix = np.cos((2 * k[None, :] + 1) * k[:, None] * np.pi / 16) * 0.5
    matrix[0] /= np.sqrt(2)
    block = np.random.default_rng(0).normal(size=(2, 3, 8, 5, 8)).astype(np.float32)
    np.testing.assert_allclose(_forward8(block, 4), block @ matrix.T, atol=1e-5)
    np.testing.assert_allclose(_inverse8(_forward8(block, 2), 2), block, atol=1e-5)


def test_grey_images_occur_and_compression_is_mild():
    images = draw_faces(np.arange(200), np.arange(200), np.full(200, 30.0), settings=SyntheticSettings(nuisance=1.0))
    spread = images.astype(int).max(axis=3) - images.astype(int).min(axis=3)
    share = (np.percentile(spread.reshape(200, -1), 50, axis=1) < 8).mean()
    assert 0.01 < share < 0.12
    assert 60 < images.mean() < 190


def test_contact_sheet_places_faces_by_identity_and_age():
    sheet = contact_sheet([3, 8], [5, 30, 70], image_size=56, gap=3, first_image_index=2)
    assert sheet.shape == (56 * 2 + 3, 56 * 3 + 6, 3)
    face = draw_faces(8, 4, 70.0, image_size=56)[0]
    assert np.array_equal(sheet[59:115, 118:174], face)
    assert (sheet[56:59] == 255).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [0], [30.0, 30.0]), "equally long"),
        (([1], [0], [-1.0]), r"\[0, 120\]"),
        (([1], [0], [np.nan]), r"\[0, 120\]"),
        (([-1], [0], [30.0]), "negative"),
    ],
)
def test_draw_faces_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message):
        draw_faces(*arguments)


def test_draw_faces_refuses_other_sizes_and_draws_none():
    with pytest.raises(ConfigError, match="56 or 112"):
        draw_faces(1, 0, 30.0, image_size=64)
    assert draw_faces([], [], []).shape == (0, 56, 56, 3)


@pytest.mark.parametrize(("who", "ages", "gap"), [([], [3], 0), ([1], [], 0), ([1], [3], -1)])
def test_contact_sheet_refuses(who, ages, gap):
    with pytest.raises(ConfigError):
        contact_sheet(who, ages, gap=gap)


def test_every_shape_parameter_is_drawn():
    """Each moves some image; none is a number without an effect."""
    calm = SyntheticSettings(nuisance=1.0)
    rows = np.arange(12)
    ages = np.array([3.0, 6, 9, 16, 22, 27, 33, 41, 48, 55, 66, 75])
    from interproto_lib.data.synthetic.renderer import draw_face

    for parameter in SHAPE_PARAMETERS:
        changed = False
        for face in _faces(rows, rows, ages, calm):
            before = draw_face(face, 56)
            setattr(face, parameter.name, getattr(face, parameter.name) + 2.0 * parameter.spread)
            changed = changed or not np.array_equal(draw_face(face, 56), before)
            if changed:
                break
        assert changed, parameter.name
    assert len(set(SHAPE_NAMES)) == len(SHAPE_NAMES) == 40

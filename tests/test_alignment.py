"""Similarity transforms against scikit-image, warps against scikit-image and SciPy; landmarks that are no face's."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from interproto_lib.data.alignment import LANDMARK_NAMES, align_face, estimate_similarity, face_likeness, face_template
from interproto_lib.errors import ConfigError, DatasetError, InterprotoError

ATT_FACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "att_faces"

# The template as published with ArcFace, and five poses from profile to profile as SphereFace's authors published them.
TEMPLATE = [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
POSES = [
    [(51.642, 50.115), (57.617, 49.990), (35.740, 69.007), (51.157, 89.050), (57.025, 89.702)],
    [(45.031, 50.118), (65.568, 50.872), (39.677, 68.111), (45.177, 86.190), (64.246, 86.758)],
    [(39.730, 51.138), (72.270, 51.138), (56.000, 68.493), (42.463, 87.010), (69.537, 87.010)],
    [(46.845, 50.872), (67.382, 50.118), (72.737, 68.111), (48.167, 86.758), (67.236, 86.190)],
    [(54.796, 49.990), (60.771, 50.115), (76.673, 69.007), (55.388, 89.702), (61.257, 89.050)],
]


def placed(points, *, scale=1.0, degrees=0.0, shift=(0.0, 0.0), noise=0.0, seed=0):
    """Points turned, scaled and shifted, each then moved by a little."""
    angle = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(points) @ turn.T + shift + np.random.default_rng(seed).normal(0, noise or 1e-300, (5, 2))


def scikit_image_estimate(landmarks, template):
    from skimage.transform import SimilarityTransform

    return SimilarityTransform.from_estimate(np.asarray(landmarks), np.asarray(template)).params[:2]


def smooth_image(height, width, seed=0):
    values = np.random.default_rng(seed).uniform(0, 255, (height, width, 3))
    return np.clip(ndimage.gaussian_filter(values, (2, 2, 0)) * 4 - 380, 0, 255).astype(np.uint8)


def warped_by_scikit_image(image, matrix, size):
    from skimage.transform import SimilarityTransform, warp

    transform = SimilarityTransform(matrix=np.vstack([matrix, [0, 0, 1]]))
    return warp(
        image, transform.inverse, output_shape=(size, size), order=1, mode="constant", cval=0, preserve_range=True
    )


def warped_by_scipy(image, matrix, size):
    whole = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    y, x = np.mgrid[:size, :size]
    columns, rows, _ = whole @ np.stack([x.ravel(), y.ravel(), np.ones(size * size)])
    planes = [
        ndimage.map_coordinates(image[..., c].astype(float), [rows, columns], order=1, mode="grid-constant")
        for c in range(3)
    ]
    return np.stack(planes, axis=-1).reshape(size, size, 3)


# --- the transform --------------------------------------------------------------------------------


def test_the_template_is_the_published_one():
    np.testing.assert_array_equal(face_template(), TEMPLATE)
    np.testing.assert_array_equal(face_template(224), 2 * np.array(TEMPLATE))
    assert LANDMARK_NAMES == ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")


@given(
    degrees=st.floats(-180, 180),
    scale=st.floats(0.05, 40),
    shift=st.tuples(st.floats(-3000, 3000), st.floats(-3000, 3000)),
    pose=st.sampled_from([TEMPLATE, *POSES]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=300, deadline=None)
def test_equals_scikit_image(degrees, scale, shift, pose, seed):
    landmarks = placed(pose, scale=scale, degrees=degrees, shift=shift, noise=2 * scale, seed=seed)
    found = estimate_similarity(landmarks, TEMPLATE)
    expected = scikit_image_estimate(landmarks, TEMPLATE)
    # The shift is a difference of numbers as large as the place of the face times the scale.
    reach = max(1.0, np.abs(landmarks).max() * np.abs(expected[:, :2]).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * reach)
    np.testing.assert_allclose(found[:, :2], expected[:, :2], rtol=0, atol=1e-9 * max(1.0, 1 / scale))
    assert np.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize("pose", [TEMPLATE, *POSES])
def test_equals_scikit_image_to_1e_9_in_a_photograph(pose):
    landmarks = placed(pose, scale=2.3, degrees=17, shift=(150, 90), noise=1.5)
    np.testing.assert_allclose(
        estimate_similarity(landmarks), scikit_image_estimate(landmarks, TEMPLATE), rtol=0, atol=1e-9
    )


def test_other_numbers_of_points():
    points = np.random.default_rng(3).uniform(0, 100, (9, 2))
    target = points * 0.5 + 3
    np.testing.assert_allclose(estimate_similarity(points, target), [[0.5, 0, 3], [0, 0.5, 3]], atol=1e-12)
    np.testing.assert_allclose(estimate_similarity(points[:2], target[:2]), [[0.5, 0, 3], [0, 0.5, 3]], atol=1e-12)


@pytest.mark.parametrize(
    ("landmarks", "reason"),
    [
        (np.full((5, 2), 40.0), "one place"),
        (np.array(TEMPLATE) / 112 + 40, "one place"),
        (np.array(TEMPLATE) / 112, "between 0 and 1; expected pixels"),
        ([(10.0 * i, 7.0 * i + 3) for i in range(5)], "one line"),
        ([(10.0 * i, 3.0) for i in range(5)], "one line"),
        ([(30.0, 9.0 * i) for i in range(5)], "one line"),
        ([(112 - x, y) for x, y in TEMPLATE], "mirrored"),
        ([(112 - x, y) for x, y in POSES[3]], "mirrored"),
        ([TEMPLATE[i] for i in (1, 0, 2, 4, 3)], "mirrored: left and right are swapped"),
        ([TEMPLATE[i] for i in (0, 4, 2, 3, 1)], "do not form a face; expected them in the order left_eye, right_eye"),
        ([(np.nan, 1.0), *TEMPLATE[1:]], "NaN or infinity"),
        ([*TEMPLATE[:4], (np.inf, 1.0)], "NaN or infinity"),
        ([*TEMPLATE[:4], (1e300, 1.0)], r"reach 1e\+300"),
        (TEMPLATE[:4], r"shape \(4, 2\), expected \(5, 2\)"),
        (np.array(TEMPLATE).T, r"shape \(2, 5\)"),
        (np.array(TEMPLATE).ravel(), r"shape \(10,\)"),
    ],
)
def test_landmarks_that_cannot_be_aligned(landmarks, reason):
    with pytest.raises(DatasetError, match=reason):
        estimate_similarity(landmarks)
    with pytest.raises(DatasetError, match=reason):
        align_face(np.zeros((112, 112, 3), np.uint8), landmarks)


@pytest.mark.parametrize("degrees", range(-180, 180, 45))
def test_heads_in_any_position_are_no_mirror_images(degrees):
    for pose in POSES:
        estimate_similarity(placed(pose, degrees=degrees, scale=3, shift=(500, 500)))


def test_likeness_is_the_correlation_after_the_best_rotation():
    draw = np.random.default_rng(0)
    sets = np.stack([*np.array(POSES), *draw.uniform(0, 100, (20, 5, 2))])
    target = np.array(TEMPLATE) - np.mean(TEMPLATE, axis=0)
    angles = np.linspace(0, 2 * np.pi, 3601)
    turns = np.stack([np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)], axis=1).reshape(-1, 2, 2)
    for landmarks, found in zip(sets, face_likeness(sets), strict=True):
        centred = landmarks - landmarks.mean(axis=0)
        best = max((centred @ turn.T * target).sum() for turn in turns)
        assert found == pytest.approx(best / (np.linalg.norm(centred) * np.linalg.norm(target)), abs=1e-5)
    assert face_likeness(np.array([TEMPLATE]) * 7 + 3).tolist() == pytest.approx([1])
    assert np.isnan(face_likeness(np.ones((1, 5, 2)))).all()


# --- the warp -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [112, 128, 224])
@pytest.mark.parametrize("seed", range(6))
def test_pixels_equal_scikit_image_and_scipy_to_one_grey_level(size, seed):
    draw = np.random.default_rng(seed)
    # The last ones stick out of the image on one side or more.
    image = smooth_image(*draw.integers(90, 400, 2), seed=seed)
    scale, degrees, centre = draw.uniform(0.4, 2.5), draw.uniform(-60, 60), draw.uniform(0.1, 0.9, 2)
    landmarks = placed(np.subtract(TEMPLATE, 56), scale=scale, degrees=degrees, seed=seed)
    landmarks += centre * image.shape[1::-1]
    matrix = scikit_image_estimate(landmarks, np.array(TEMPLATE) * size / 112)
    found = align_face(image, landmarks, size)
    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8
    assert found.std() > 10
    for expected in (warped_by_scikit_image(image, matrix, size), warped_by_scipy(image, matrix, size)):
        assert np.abs(found - expected).max() <= 1
        assert np.abs(found - expected).mean() < 0.3  # rounded, not cut off: that would be 0.5


def test_noise_equals_scipy_too():
    image = np.random.default_rng(1).integers(0, 256, (200, 150, 3), dtype=np.uint8)
    landmarks = placed(TEMPLATE, scale=1.4, degrees=-33, shift=(20, 70))
    expected = warped_by_scipy(image, scikit_image_estimate(landmarks, TEMPLATE), 112)
    assert np.abs(align_face(image, landmarks) - expected).max() <= 1


def test_a_face_on_the_template_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    for antialias in (False, True):
        np.testing.assert_array_equal(align_face(image, TEMPLATE, antialias=antialias), image)


def test_whole_pixels_are_shifted_exactly_and_the_border_is_black():
    image = np.random.default_rng(0).integers(1, 256, (130, 140, 3), dtype=np.uint8)
    found = align_face(image, np.add(TEMPLATE, (-5, 40)))
    expected = np.zeros((112, 112, 3), np.uint8)
    expected[:90, 5:] = image[40:130, :107]
    np.testing.assert_array_equal(found, expected)


def test_a_quarter_turn_is_exact():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    turned = np.rot90(image)  # (x, y) goes to (y, 111 - x)
    landmarks = [(y, 111 - x) for x, y in TEMPLATE]
    difference = align_face(turned, landmarks).astype(int) - image
    assert np.abs(difference[1:-1, 1:-1]).max() <= 1
    np.testing.assert_array_equal(align_face(np.flip(image, axis=2)[..., ::-1], TEMPLATE), image)  # any memory order


def test_fine_patterns_are_averaged_only_on_request():
    y, x = np.mgrid[:600, :600]
    checkerboard = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    landmarks = placed(TEMPLATE, scale=4.3, degrees=20, shift=(120, -20))
    as_the_field = align_face(checkerboard, landmarks)[20:90, 20:90]
    filtered = align_face(checkerboard, landmarks, antialias=True)[20:90, 20:90]
    assert as_the_field.std() > 30
    assert np.abs(filtered.astype(int) - 127.5).max() < 12


def test_filtering_keeps_every_landmark_in_its_place():
    """A bright spot at each landmark of a large photograph lands on the template, with and without the filter."""
    landmarks = placed(TEMPLATE, scale=5.0, degrees=-25, shift=(200, 400))
    y, x = np.mgrid[:900, :900]
    photograph = np.zeros((900, 900))
    for place in landmarks:
        photograph += 250 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * 8.0**2))
    image = np.repeat(np.clip(photograph, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    for antialias in (False, True):
        face = align_face(image, landmarks, antialias=antialias)[..., 0].astype(float)
        for place_x, place_y in TEMPLATE:
            left, top = round(place_x) - 6, round(place_y) - 6
            window = face[top : top + 13, left : left + 13]
            rows, columns = np.mgrid[top : top + 13, left : left + 13]
            centre = (columns * window).sum() / window.sum(), (rows * window).sum() / window.sum()
            assert np.abs(np.array(centre) - (place_x, place_y)).max() < 0.08


def test_filtering_changes_smooth_photographs_little():
    image = smooth_image(500, 420, seed=4)
    image = np.asarray(Image.fromarray(image).resize((1260, 1500), Image.Resampling.BICUBIC))
    landmarks = placed(TEMPLATE, scale=4, degrees=10, shift=(300, 300))
    plain, filtered = (align_face(image, landmarks, antialias=choice).astype(int) for choice in (False, True))
    assert np.abs(plain - filtered).mean() < 8
    assert np.abs(plain.mean() - filtered.mean()) < 1


def test_landmarks_of_another_image():
    image = np.zeros((60, 80, 3), np.uint8)
    with pytest.raises(DatasetError, match="outside of the image of 80 x 60 pixels"):
        align_face(image, np.array(TEMPLATE) + 200)
    align_face(image, np.array(TEMPLATE))  # some of them lie in it


def test_huge_and_tiny_faces_take_no_more_memory():
    image = np.full((50, 50, 3), 9, np.uint8)
    at_an_eye = -5000 * np.array(TEMPLATE[0]) + 20
    tracemalloc.start()
    try:
        for antialias in (False, True):
            assert align_face(image, placed(TEMPLATE, scale=5000, shift=at_an_eye), antialias=antialias).max() <= 9
            assert align_face(image, placed(TEMPLATE, scale=0.05, shift=(20, 20)), antialias=antialias).max() == 9
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.parametrize(
    "image",
    [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)],
)
def test_other_images(image):
    with pytest.raises(ConfigError, match="expected uint8"):
        align_face(image, TEMPLATE)


@pytest.mark.parametrize("size", [0, 15, -112, 1025])
def test_other_sizes(size):
    with pytest.raises(ConfigError, match="expected 16 to 1024 pixels"):
        align_face(np.zeros((112, 112, 3), np.uint8), TEMPLATE, size)


@given(
    numbers=st.lists(
        st.floats(allow_nan=True, allow_infinity=True) | st.floats(-300, 300) | st.integers(-3, 3).map(float),
        min_size=10,
        max_size=10,
    ),
    antialias=st.booleans(),
)
@settings(max_examples=1000, deadline=None)
def test_any_numbers_give_a_face_or_a_named_error(numbers, antialias):
    image = np.full((40, 30, 3), 200, np.uint8)
    try:
        face = align_face(image, np.array(numbers).reshape(5, 2), antialias=antialias)
    except InterprotoError:
        return
    assert face.shape == (112, 112, 3)
    assert face.max() <= 200


# --- real photographs -----------------------------------------------------------------------------


@pytest.mark.skipif(not ATT_FACES.is_dir(), reason=f"the AT&T faces are not at {ATT_FACES}")
@pytest.mark.parametrize("name", ["s1/1.pgm", "s40/10.pgm"])
def test_photographs(name):
    image = np.asarray(Image.open(ATT_FACES / name).convert("RGB"))
    landmarks = np.array([(30, 52), (62, 51), (46, 70), (34, 86), (59, 85)], dtype=float)  # made up, about right
    face = align_face(image, landmarks)
    expected = warped_by_scikit_image(image, scikit_image_estimate(landmarks, TEMPLATE), 112)
    assert np.abs(face - expected).max() <= 1
    assert face.std() > 20

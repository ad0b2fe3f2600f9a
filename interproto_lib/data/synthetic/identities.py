"""Who a drawn person is: a vector of shape parameters, colours, moles and habits of hair.

Lengths are in face units: the distance between the two eyes is 1, the origin is between them, y points down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interproto_lib.data.synthetic.hashing import normals, uniforms

FloatArray = NDArray[np.float64]

N_MOLES = 3
_STREAM_ADULT, _STREAM_CHILD, _STREAM_COLOURS, _STREAM_MOLES, _STREAM_HABITS = 1, 2, 3, 4, 7


@dataclass(frozen=True)
class ShapeParameter:
    """One parameter of a face and how it changes with age and between people.

    Attributes:
        name: Its name, an attribute of the faces that are drawn.
        child: Mean of children (age 0).
        adult: Mean of adults (age 20 to 38).
        old: What old age adds to it (full at about 75).
        spread: Standard deviation between adults, one identity each.
        persistence: 0 to 1, how much of the spread small children show already; see `ageing.deviation_scale`.
        male: Added after puberty for men, subtracted for women.
        lowest: Smallest value that can be drawn.
        highest: Largest value that can be drawn.
    """

    name: str
    child: float
    adult: float
    old: float
    spread: float
    persistence: float
    male: float = 0.0
    lowest: float = -np.inf
    highest: float = np.inf


# Means of children and adults follow what is known of growth: between birth and twenty the lower face lengthens, nose
# and chin grow most, eyes nearly keep their size and so become smaller relative to the face. Spreads are chosen by eye.
SHAPE_PARAMETERS: tuple[ShapeParameter, ...] = (
    # Eyes.                          child  adult    old  spread persist  male   lowest
    ShapeParameter("eye_distance", 0.500, 0.500, 0.000, 0.032, 0.3, 0.010),  # half of it
    ShapeParameter("eye_width", 0.240, 0.200, -0.010, 0.017, 0.2, 0.000, 0.12),  # half of it
    ShapeParameter("eye_height", 0.150, 0.099, -0.016, 0.017, 0.2, -0.005, 0.035),
    ShapeParameter("eye_tilt", 0.000, 0.000, 0.020, 0.035, 0.4),
    ShapeParameter("eye_skew", 0.000, 0.000, 0.000, 0.220, 0.3),
    ShapeParameter("eye_asymmetry", 0.000, 0.000, 0.000, 0.022, 0.3),
    ShapeParameter("iris_radius", 0.128, 0.100, -0.003, 0.006, 0.1, 0.000, 0.07),
    ShapeParameter("lid_gap", 0.020, 0.030, 0.000, 0.012, 0.2),
    ShapeParameter("lid_crease", 0.250, 0.350, 0.050, 0.220, 0.3, -0.050, 0.0),
    ShapeParameter("eye_socket", 0.060, 0.160, 0.080, 0.080, 0.1, 0.030, 0.0),
    ShapeParameter("eye_bag", 0.030, 0.070, 0.180, 0.050, 0.1, 0.000, 0.0),
    # Brows.
    ShapeParameter("brow_y", -0.290, -0.270, 0.020, 0.032, 0.1, 0.025),
    ShapeParameter("brow_thickness", 0.026, 0.042, -0.004, 0.011, 0.1, 0.012, 0.012),
    ShapeParameter("brow_arch", 0.050, 0.050, -0.010, 0.030, 0.2, -0.015),
    ShapeParameter("brow_length", 0.260, 0.300, 0.000, 0.028, 0.2),
    ShapeParameter("brow_tilt", 0.000, 0.000, 0.030, 0.040, 0.2),
    ShapeParameter("brow_darkness", 0.450, 0.750, -0.150, 0.120, 0.2, 0.080, 0.1),
    # Nose.
    ShapeParameter("nose_length", 0.460, 0.600, 0.035, 0.050, 0.1, 0.015),
    ShapeParameter("nose_width", 0.165, 0.205, 0.020, 0.027, 0.3, 0.015, 0.1),
    ShapeParameter("nose_bridge", 0.100, 0.340, 0.020, 0.160, 0.0, 0.050, 0.02),
    ShapeParameter("nose_tip", 0.100, 0.160, 0.020, 0.080, 0.2, 0.000, 0.02),
    # Mouth.
    ShapeParameter("mouth_y", 0.930, 1.160, 0.030, 0.045, 0.1, 0.010),
    ShapeParameter("mouth_width", 0.300, 0.400, 0.010, 0.036, 0.2, 0.012, 0.2),  # half of it
    ShapeParameter("upper_lip", 0.060, 0.062, -0.022, 0.018, 0.3, -0.008, 0.018),
    ShapeParameter("lower_lip", 0.078, 0.085, -0.028, 0.020, 0.3, -0.008, 0.024),
    ShapeParameter("mouth_curve", 0.000, 0.000, 0.020, 0.022, 0.2),
    ShapeParameter("mouth_tilt", 0.000, 0.000, 0.000, 0.030, 0.3),
    ShapeParameter("lip_red", 0.300, 0.220, -0.060, 0.100, 0.2, -0.080, 0.02),
    ShapeParameter("philtrum", 0.050, 0.070, -0.030, 0.040, 0.2, 0.000, 0.0),
    # Outline and relief of the face.
    ShapeParameter("chin_y", 1.380, 1.800, 0.030, 0.085, 0.1, 0.050),
    ShapeParameter("face_width", 1.100, 1.080, 0.030, 0.060, 0.1, 0.030),  # half of it
    ShapeParameter("jaw", -0.050, 0.380, 0.100, 0.340, 0.0, 0.180),  # below 0 tapered, above 0 square
    ShapeParameter("chin_relief", 0.000, 0.100, 0.050, 0.100, 0.1, 0.050),
    ShapeParameter("cheekbone", 0.020, 0.100, 0.050, 0.070, 0.0, 0.010, 0.0),
    ShapeParameter("cheek", 0.100, 0.030, -0.030, 0.050, 0.2, -0.010),
    ShapeParameter("nose_fold", 0.020, 0.090, 0.220, 0.050, 0.1, 0.000, 0.0),
    ShapeParameter("ear_size", 0.200, 0.240, 0.050, 0.050, 0.2, 0.010, 0.12),
    ShapeParameter("hairline_y", -0.960, -0.940, -0.060, 0.100, 0.2),
    ShapeParameter("hairline_arch", 0.280, 0.250, 0.100, 0.130, 0.2, 0.050, 0.02),
    ShapeParameter("freckles", 0.020, 0.060, 0.000, 0.300, 0.7, 0.000, 0.0),
)

SHAPE_NAMES: tuple[str, ...] = tuple(parameter.name for parameter in SHAPE_PARAMETERS)


@dataclass(frozen=True, kw_only=True)
class Identities:
    """What stays of n people through their lives.

    Attributes:
        adult: (n, 40) deviations from the mean face in standard deviations, as an adult.
        child: (n, 40) deviations of the child that are unrelated to the adult's.
        male: (n,) whether the person is a man.
        pace: (n,) in [0, 1), how fast old age shows.
        colours: (n, 8) in [0, 1): skin tone, skin hue, hair darkness, hair redness, age of greying, its lightness,
            iris, a spare that keeps the layout.
        moles: (n, 3, 5) in [0, 1): x, y, radius, age of onset, whether it exists.
        habits: (n, 12) in [0, 1): style of hair, length, volume, side of the parting, curls, balding, beard, its
            style, glasses, fringe, hairline and strands.
    """

    adult: FloatArray
    child: FloatArray
    male: NDArray[np.bool_]
    pace: FloatArray
    colours: FloatArray
    moles: FloatArray
    habits: FloatArray


def draw_identities(identity_index: ArrayLike, *, seed: int = 0) -> Identities:
    """Draw people: each a function of the seed and the number of the identity.

    Args:
        identity_index: (n,) whole numbers; the same number twice is the same person twice.
        seed: Another seed, other people.

    Returns:
        n people, row i of every array belonging to `identity_index[i]`.
    """
    index = np.atleast_1d(np.asarray(identity_index, dtype=np.int64))
    n, k = len(index), len(SHAPE_PARAMETERS)
    colours = uniforms(seed, index, _STREAM_COLOURS, count=10)
    return Identities(
        adult=normals(seed, index, _STREAM_ADULT, count=k),
        child=normals(seed, index, _STREAM_CHILD, count=k),
        male=colours[:, 0] < 0.5,
        pace=colours[:, 1],
        colours=colours[:, 2:],
        moles=uniforms(seed, index, _STREAM_MOLES, count=5 * N_MOLES).reshape(n, N_MOLES, 5),
        habits=uniforms(seed, index, _STREAM_HABITS, count=12),
    )

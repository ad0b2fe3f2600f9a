"""What age makes of a person: shape, colours, moles and hair at a given age."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interproto_lib.data.synthetic.identities import N_MOLES, SHAPE_NAMES, SHAPE_PARAMETERS, Identities

FloatArray = NDArray[np.float64]

GROWN_UP_YEARS = 20.0
"""Age at which growth is complete and an identity differs from the mean face by its full deviation."""

OLD_FROM_YEARS = 38.0
OLD_FULL_YEARS = 75.0
UNRELATED_CHILD_SHARE = 0.25
"""Weight of the part of a newborn's deviation that has nothing to do with the adult's."""

_TABLE = np.array([[p.child, p.adult, p.old, p.spread, p.persistence, p.male] for p in SHAPE_PARAMETERS])
_LOWEST = np.array([p.lowest for p in SHAPE_PARAMETERS])
_HIGHEST = np.array([p.highest for p in SHAPE_PARAMETERS])


def smoothstep(value: FloatArray) -> FloatArray:
    """Go from 0 to 1 as `value` does, with level ends: t^2 (3 - 2 t) of t = value held in [0, 1].

    Example:
        >>> [float(smoothstep(np.array(t))) for t in (-1.0, 0.5, 2.0)]
        [0.0, 0.5, 1.0]
    """
    t = np.minimum(np.maximum(value, 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


def growth(age_years: FloatArray) -> FloatArray:
    """Share of growth completed: 0 at birth, 1 from 20 years."""
    return smoothstep(age_years / GROWN_UP_YEARS)


def puberty(age_years: FloatArray) -> FloatArray:
    """How far men and women differ: 0 up to 9 years, 1 from 18."""
    return smoothstep((age_years - 9.0) / 9.0)


def oldness(age_years: FloatArray, pace: FloatArray) -> FloatArray:
    """How old a face looks: 0 up to 38 years, then growing faster and faster to 0.75 to 1.25 at 75.

    Args:
        age_years: (n,).
        pace: (n,) in [0, 1]: 0.5 reaches 1 at 75 years.

    Returns:
        (n,).
    """
    t = np.minimum(np.maximum((age_years - OLD_FROM_YEARS) / (OLD_FULL_YEARS - OLD_FROM_YEARS), 0.0), 1.0)
    return t * (0.5 + 0.5 * t) * (0.75 + 0.5 * pace)


def deviation_scale(age_years: FloatArray, *, child_amplitude_floor: float) -> FloatArray:
    """Scale of an identity's deviation from the mean face, for each age and shape parameter.

    floor + (1 - floor) * growth, with floor = s0 + (1 - s0) * persistence. This, and nothing else, is why drawn
    children resemble each other: they are near the mean child.

    Args:
        age_years: (n,).
        child_amplitude_floor: s0, the scale at birth of a parameter of persistence 0, in [0, 1].

    Returns:
        (n, k), 1 from 20 years.
    """
    floor = child_amplitude_floor + (1.0 - child_amplitude_floor) * _TABLE[None, :, 4]
    return floor + (1.0 - floor) * growth(age_years)[:, None]


def shape_at_age(
    identities: Identities, age_years: FloatArray, *, amplitude: float = 1.0, child_amplitude_floor: float = 0.30
) -> FloatArray:
    """Shape parameters of people at an age.

    mean(age) + amplitude * spread * scale(age) * deviation(age), where mean goes from the child's to the adult's with
    growth and on with oldness, and deviation = (1 - c) * adult + c * child with c = 0.25 * (1 - growth): a quarter of
    a newborn's deviation has nothing to do with the adult's.

    Args:
        identities: n people.
        age_years: (n,) their ages.
        amplitude: Scale of all deviations, >= 0.
        child_amplitude_floor: s0, see `deviation_scale`.

    Returns:
        (n, k), columns as `SHAPE_NAMES`.
    """
    grown = growth(age_years)[:, None]
    old = oldness(age_years, identities.pace)[:, None]
    male = np.where(identities.male, 1.0, -1.0)[:, None] * puberty(age_years)[:, None]
    child, adult, old_shift, spread, _, male_shift = (_TABLE[None, :, column] for column in range(6))
    unrelated = UNRELATED_CHILD_SHARE * (1.0 - grown)
    deviation = identities.adult * (1.0 - unrelated) + identities.child * unrelated
    scale = deviation_scale(age_years, child_amplitude_floor=child_amplitude_floor)
    mean = child + (adult - child) * grown + old_shift * old + male_shift * male
    shape = mean + amplitude * (spread * (scale * deviation))
    return np.minimum(np.maximum(shape, _LOWEST[None, :]), _HIGHEST[None, :])


def person_at_age(
    identities: Identities, age_years: FloatArray, *, amplitude: float = 1.0, child_amplitude_floor: float = 0.30
) -> dict[str, FloatArray]:
    """Everything about the look of people at an age that is not chance of the single image.

    Args:
        identities: n people.
        age_years: (n,) their ages.
        amplitude: Scale of all deviations of shape.
        child_amplitude_floor: s0, see `deviation_scale`.

    Returns:
        Name -> (n,), or (n, 3) for colours (RGB, linear in the pixel value, 0 to 1) and moles: the shape parameters,
        `growth`, `old`, `male`, `puberty`, the colours `skin`, `hair` and `iris`, the moles, the habits of hair.
    """
    shape = shape_at_age(identities, age_years, amplitude=amplitude, child_amplitude_floor=child_amplitude_floor)
    look = {name: shape[:, column] for column, name in enumerate(SHAPE_NAMES)}
    look["growth"] = growth(age_years)
    look["old"] = oldness(age_years, identities.pace)
    look["puberty"] = puberty(age_years)
    look["male"] = np.where(identities.male, 1.0, 0.0)
    look |= _colours(identities, age_years, look["growth"])
    look |= _moles(identities, age_years)
    look |= _hair(identities, age_years, look)
    return look


def _clip01(value: FloatArray) -> FloatArray:
    return np.minimum(np.maximum(value, 0.0), 1.0)


def _mix_colours(stops: list[list[float]], at: FloatArray) -> FloatArray:
    """Colours (n, 3) at positions (n,) in [0, 1] on a line through equally spaced stops."""
    table = np.array(stops)
    place = at * (len(stops) - 1)
    below = np.minimum(place.astype(np.int64), len(stops) - 2)
    return table[below] + (table[below + 1] - table[below]) * (place - below)[:, None]


def _colours(identities: Identities, age_years: FloatArray, grown: FloatArray) -> dict[str, FloatArray]:
    u = identities.colours
    tone = u[:, 0]
    skin = _mix_colours(
        [[0.93, 0.78, 0.69], [0.90, 0.71, 0.58], [0.82, 0.61, 0.46], [0.62, 0.43, 0.30], [0.42, 0.28, 0.20]],
        tone * (0.4 + 0.6 * tone),
    )
    hue = (u[:, 1] - 0.5)[:, None]
    skin = skin * (1.0 + hue * np.array([0.03, -0.02, -0.12]))
    # Hair is darker with darker skin, lighter in children.
    darkness = _clip01(0.60 + (u[:, 2] - 0.45) * 0.95 + 0.45 * (tone - 0.35) - 0.16 * (1.0 - grown))
    hair = _mix_colours([[0.80, 0.66, 0.44], [0.62, 0.44, 0.25], [0.38, 0.24, 0.14], [0.20, 0.13, 0.09],
                         [0.09, 0.07, 0.07]], darkness)  # fmt: skip
    redness = _clip01(u[:, 3] * 2.2 - 1.4)[:, None] * (1.0 - 0.5 * _clip01(tone * 2.0 - 0.8))[:, None]
    hair = hair * (1.0 + redness * np.array([0.35, -0.10, -0.35]))
    grey = _clip01((age_years - 36.0 - 24.0 * u[:, 4]) / 24.0)[:, None]
    hair = hair + (np.array([0.74, 0.73, 0.72]) * (0.82 + 0.25 * u[:, 5:6]) - hair) * grey
    iris = _mix_colours(
        [[0.42, 0.58, 0.74], [0.45, 0.55, 0.58], [0.40, 0.46, 0.28], [0.42, 0.28, 0.14], [0.24, 0.14, 0.08]],
        _clip01(u[:, 6] * 0.95 + 0.45 * (tone - 0.3)),
    )
    return {"skin": _clip01(skin), "hair": _clip01(hair), "iris": iris, "grey": grey[:, 0]}


def _moles(identities: Identities, age_years: FloatArray) -> dict[str, FloatArray]:
    """Place moles on cheeks, forehead and chin; each appears within six years after its onset, before 28."""
    u = identities.moles
    strength = _clip01((age_years[:, None] - 28.0 * u[:, :, 3]) / 6.0) * (u[:, :, 4] < 0.55)
    assert u.shape[1] == N_MOLES
    return {
        "mole_x": (u[:, :, 0] * 2.0 - 1.0) * 0.80,
        "mole_y": -0.65 + u[:, :, 1] * 2.0,
        "mole_radius": 0.026 + 0.030 * u[:, :, 2],
        "mole_strength": strength * 0.75,
    }


def _hair(identities: Identities, age_years: FloatArray, look: dict[str, FloatArray]) -> dict[str, FloatArray]:
    u, male, grown_up = identities.habits, look["male"], look["puberty"]
    adult_length = np.where(male > 0, 0.05 + 0.35 * u[:, 1] * u[:, 1], 0.45 + 1.9 * u[:, 1])
    child_length = np.where(male > 0, 0.10 + 0.25 * u[:, 1], 0.25 + 1.3 * u[:, 1])
    bald = male * _clip01(u[:, 5] * 1.9 - 0.8) * _clip01((age_years - 26.0) / 34.0)
    beard = male * smoothstep((age_years - 16.0) / 7.0) * _clip01(u[:, 6] * 2.0 - 0.95)
    return {
        "hair_style": u[:, 0],
        "hair_length": child_length + (adult_length - child_length) * grown_up,
        "hair_volume": (0.05 + 0.11 * u[:, 2]) * (1.0 - 0.35 * look["old"]),
        "parting": (u[:, 3] - 0.5) * 1.1,
        "curl": _clip01(u[:, 4] * 2.6 - 1.6),
        "bald": bald,
        "beard": beard,
        "beard_style": u[:, 7],
        "glasses_habit": u[:, 8],
        "fringe_habit": u[:, 9],
        "recession": male * grown_up * u[:, 10] * _clip01((age_years - 18.0) / 30.0),
    }

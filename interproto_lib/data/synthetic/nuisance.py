"""What changes from image to image of one person at one age: pose, expression, light, accessories, camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interproto_lib.data.synthetic.hashing import normals, uniforms

FloatArray = NDArray[np.float64]

OCCLUDERS = ("hand", "scarf", "phone")
_STREAM_NORMAL, _STREAM_UNIFORM = 5, 6


def _clip(value: FloatArray, low: float, high: float) -> FloatArray:
    return np.minimum(np.maximum(value, low), high)


def draw_nuisance(
    identity_index: NDArray[np.int64],
    image_index: NDArray[np.int64],
    look: dict[str, FloatArray],
    *,
    nuisance: float = 1.0,
    seed: int = 0,
) -> dict[str, FloatArray]:
    """Draw the chances of n images.

    Args:
        identity_index: (n,) numbers of the identities.
        image_index: (n,) numbers of the images within their identity; number and identity fix every chance.
        look: The people at their ages, see `ageing.person_at_age`; habits make glasses and fringes more frequent.
        nuisance: Scale of pose, jitter, expression, light, blur, noise and compression; also of how often grey images
            and things before the face occur. 0 is a calm frontal portrait, 1 a mixed collection.
        seed: As for the identities.

    Returns:
        Name -> (n,) or (n, m): `yaw` and `pitch` as tangents of half the angle; `jitter` (n, 10) errors of the five
        landmarks in face units; `smile`, `mouth_open`, `lid` (1 is relaxed), `brow_raise`, `gaze_x`, `gaze_y`;
        `light` (n, 3) unit vector towards the light (x right, y down, z to the viewer); `ambient`, `gain` (n, 3);
        backgrounds and clothes; what the hair does today; `glasses`, `sunglasses`, `occluder` (0 none, else 1 + its
        place in `OCCLUDERS`); `blur`, `noise`, `compression` (0 none), `grey_image`; `offsets` (n, 8) into textures.
    """
    z = normals(seed, identity_index, _STREAM_NORMAL, image_index, count=30)
    u = uniforms(seed, identity_index, _STREAM_UNIFORM, image_index, count=52)
    chance: dict[str, FloatArray] = {}
    chance |= _pose_and_expression(z, nuisance)
    chance |= _light(z, u, nuisance)
    chance |= _surroundings(u)
    chance |= _hair_today(z, u, look, nuisance)
    chance |= _accessories(u, look, nuisance)
    chance |= _camera(u, nuisance)
    return chance


def _pose_and_expression(z: FloatArray, nuisance: float) -> dict[str, FloatArray]:
    smile = _clip(z[:, 12] * 0.55 + 0.40, -0.4, 1.4) * nuisance
    return {
        "yaw": _clip(z[:, 0] * 0.30 * nuisance, -0.70, 0.70) * 0.5,
        "pitch": _clip(z[:, 1] * 0.14 * nuisance, -0.36, 0.36) * 0.5,
        "jitter": z[:, 2:12] * (0.018 * nuisance),
        "smile": smile,
        "mouth_open": _clip(z[:, 13] * 0.07 + 0.01, 0.0, 0.18) * nuisance,
        "lid": _clip(1.0 + z[:, 14] * 0.13 * nuisance - 0.10 * np.maximum(smile, 0.0), 0.5, 1.25),
        "brow_raise": z[:, 15] * (0.025 * nuisance),
        "gaze_x": z[:, 16] * (0.028 * nuisance),
        "gaze_y": z[:, 17] * (0.012 * nuisance),
    }


def _light(z: FloatArray, u: FloatArray, nuisance: float) -> dict[str, FloatArray]:
    x = _clip(z[:, 18] * 0.42 * nuisance - 0.10, -0.9, 0.9)
    y = _clip(-0.42 + z[:, 19] * 0.22 * nuisance, -0.9, 0.3)
    length = np.sqrt(x * x + y * y + 0.64)
    gain = 1.02 + z[:, 20] * 0.11 * nuisance
    return {
        "light": np.stack([x / length, y / length, 0.8 / length], axis=1),
        "ambient": 0.40 + 0.24 * u[:, 0],
        "gain": gain[:, None] * (1.0 + z[:, 21:24] * (0.045 * nuisance)),
    }


def _surroundings(u: FloatArray) -> dict[str, FloatArray]:
    # Walls and skies: a grey level with a little colour, the far side lighter or darker.
    level = 0.25 + 0.62 * u[:, 1:2]
    near = level + (u[:, 2:5] - 0.5) * 0.15
    far = near * (0.70 + 0.55 * u[:, 5:6]) + (u[:, 6:9] - 0.5) * 0.06
    cloth_level = 0.08 + 0.72 * u[:, 9:10] * u[:, 9:10]
    return {
        "background_near": _clip(near, 0.03, 0.95),
        "background_far": _clip(far, 0.03, 0.95),
        "background_tilt": (u[:, 10] - 0.5) * 1.6,
        "cloth": _clip(cloth_level + (u[:, 11:14] - 0.5) * 0.30, 0.03, 0.9),
        "collar": u[:, 14],
    }


def _hair_today(z: FloatArray, u: FloatArray, look: dict[str, FloatArray], nuisance: float) -> dict[str, FloatArray]:
    often = 0.02 + 0.62 * (look["fringe_habit"] > 0.66) + 0.12 * (1.0 - look["growth"])
    return {
        "fringe": np.where((u[:, 15] < often) & (look["bald"] < 0.2), 0.30 + 0.16 * u[:, 16], 0.0),
        "hair_lift": z[:, 24] * (0.03 * nuisance),
        "hair_length_change": z[:, 25] * (0.10 * nuisance),
        "hair_tousle": 0.6 + 0.8 * u[:, 17],
        "tied_back": np.where(u[:, 18] < 0.22 * (1.0 - look["male"]), 1.0, 0.0),
        "beard_today": _clip(look["beard"] * (0.65 + 0.7 * u[:, 19]), 0.0, 1.0),
    }


def _accessories(u: FloatArray, look: dict[str, FloatArray], nuisance: float) -> dict[str, FloatArray]:
    wears = 0.04 + 0.62 * (look["glasses_habit"] > 0.80) * look["growth"] + 0.18 * _clip(look["old"], 0.0, 1.0)
    glasses = u[:, 20] < wears
    dark = (u[:, 21] < 0.025 * nuisance) & (look["growth"] > 0.5)
    occluded = u[:, 22] < 0.05 * nuisance
    return {
        "glasses": np.where(glasses | dark, 1.0, 0.0),
        "sunglasses": np.where(dark, 1.0, 0.0),
        "frame_colour": u[:, 23:24] * 0.22 + u[:, 24:27] * np.array([0.20, 0.12, 0.14]),
        "frame_width": 0.35 + 0.05 * u[:, 27],
        "frame_height": 0.21 + 0.08 * u[:, 28],
        "frame_round": u[:, 29],
        "occluder": np.where(occluded, 1.0 + np.minimum((u[:, 30] * 3.0).astype(np.int64), 2), 0.0),
        "occluder_side": np.where(u[:, 31] < 0.5, -1.0, 1.0),
        "occluder_shift": u[:, 32:34] - 0.5,
        "occluder_colour": 0.12 + 0.55 * u[:, 34:35] + (u[:, 35:38] - 0.5) * 0.25,
    }


def _camera(u: FloatArray, nuisance: float) -> dict[str, FloatArray]:
    return {
        "blur": _clip(u[:, 38] * 1.5 - 0.65, 0.0, 1.0) * nuisance,
        "noise": (0.004 + 0.020 * u[:, 39] * u[:, 39]) * nuisance,
        "compression": np.where(u[:, 40] < 0.35, 0.25 + 0.75 * u[:, 41], 0.0) * nuisance,
        "grey_image": np.where(u[:, 42] < 0.05 * nuisance, 1.0, 0.0),
        "offsets": np.floor(u[:, 43:51] * 128.0),
    }

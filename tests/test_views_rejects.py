"""The contact sheet of rejected images: whom it shows, what it says, and that odd images and names do not stop it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from interproto_lib.errors import ConfigError, WriteError
from interproto_lib.views.rejects import rejects_figure, rejects_to_show, write_rejects_sheet


def encoded(seed: int, height: int = 40, width: int = 30) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def rejected(*kinds: tuple[str, int]) -> list[tuple[str, str, bytes]]:
    reasons = [f"{kind} ({number} pixels)" for kind, n in kinds for number in range(n)]
    return [(f"{row // 7:06d}/{row:08d}.png", reason, encoded(row)) for row, reason in enumerate(reasons)]


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@given(kinds=st.lists(st.sampled_from(["no face found", "too small", "unreadable"]), min_size=1), n=st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_kinds_take_turns(kinds: list[str], n: int):
    shown = rejects_to_show([f"{kind} ({row})" for row, kind in enumerate(kinds)], n=n)
    assert shown == sorted(set(shown))
    assert len(shown) == min(n, len(kinds))
    counts = {kind: sum(kinds[row] == kind for row in shown) for kind in set(kinds)}
    for kind, count in counts.items():
        # No kind is cut short while another has two more than it.
        if count < kinds.count(kind):
            assert max(counts.values()) <= count + 1


def test_names_reasons_and_counts():
    figure = rejects_figure(rejected(("too small", 2), ("no face found", 5)))
    found = texts(figure)
    assert found[0] == "7 images were rejected"
    assert [text for text in found if text.endswith((" of 5)", " of 2)"))] == [
        "no face found  (5 of 5)",  # the most frequent first
        "too small  (2 of 2)",
    ]
    for name in ("000000/00000000.png", "000000/00000006.png"):
        assert name in found
    assert found.count("too small (0 pixels)") == 1
    assert len(figure.axes[0].images) == 7
    assert figure.description == (
        "Contact sheet of rejected images. 7 images were rejected: 5 x no face found, 2 x too small."
    )
    assert texts(rejects_figure(rejected(("too small", 1))))[0] == "1 image was rejected"


def test_at_most_so_many_and_how_many_more():
    figure = rejects_figure(rejected(("no face found", 90), ("too small", 3)))
    assert len(figure.axes[0].images) == 60
    assert texts(figure)[0] == "93 images were rejected: 60 are shown, 33 more are not"
    assert "no face found  (57 of 90)" in texts(figure)
    assert "too small  (3 of 3)" in texts(figure)
    figure = rejects_figure(rejected(("no face found", 4)), n_more=2000, max_images=3)
    assert texts(figure)[0] == "2,004 images were rejected: 3 are shown, 2,001 more are not"
    assert "no face found  (3 shown)" in texts(figure)


def test_images_keep_their_proportions():
    reject = ("a.png", "too small", encoded(0, height=100, width=400))
    (drawn,) = rejects_figure([reject]).axes[0].images
    left, right, bottom, top = drawn.get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(4, rel=1e-6)
    assert np.asarray(drawn.get_array()).shape == (60, 240, 3)


def test_nothing_overlaps():
    figure = rejects_figure(rejected(("no face found in a place that was looked at with care", 14), ("too small", 8)))
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [artist.get_window_extent(renderer) for artist in (*figure.axes[0].texts, *figure.axes[0].images)]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y0 >= 0
        assert box.y1 <= figure.bbox.height
        for other in boxes[:number]:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            down = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert across <= 0.5 or down <= 1.5


def test_odd_images_names_and_reasons(tmp_path: Path):
    odd = [
        ("\u6f22\u5b57/$x^2$_{1}\n\u2028.jpg", "$\\frac{1}", b""),
        ("a" * 300 + ".jpg", "b" * 300, b"no image"),
        ("", "", encoded(1)[:60]),
        ("tiny.png", "one pixel", encoded(1, 1, 1)),
        ("long.png", "long: " + "and longer " * 40, encoded(1, 1, 900)),
    ]
    file = write_rejects_sheet(odd, tmp_path / "out" / "rejected.png")
    found = texts(rejects_figure(odd))
    assert any(text.startswith("\u2026") and text.endswith("aaa.jpg") for text in found)
    assert any(text.endswith("\u2026") for text in found)
    assert not any("\n" in text for text in found)
    with Image.open(file) as image:
        assert image.format == "PNG"
        assert image.width == 1440
        assert np.asarray(image.convert("L")).std() > 10
    assert sorted(path.name for path in file.parent.iterdir()) == ["rejected.png"]
    first = file.read_bytes()
    assert write_rejects_sheet(odd, file).read_bytes() == first


def test_what_cannot_be_drawn_or_written(tmp_path: Path):
    for images, more in (([], {}), (rejected(("x", 1)), {"n_more": -1}), (rejected(("x", 1)), {"max_images": 0})):
        with pytest.raises(ConfigError, match="needs at least one image"):
            rejects_figure(images, **more)
    with pytest.raises(ConfigError, match=r"rejected\.jpg does not end in \.png"):
        write_rejects_sheet(rejected(("x", 1)), tmp_path / "rejected.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="Cannot write"):
        write_rejects_sheet(rejected(("x", 1)), tmp_path / "file" / "rejected.png")

"""Progress: a bar, lines or silence, by name or by the environment."""

import pytest

from interproto_lib.errors import ConfigError
from interproto_lib.progress import count_progress, resolve_style


def test_the_environment_decides_what_auto_means(monkeypatch):
    monkeypatch.delenv("INTERPROTO_PROGRESS", raising=False)
    assert resolve_style("auto") == "bar"
    monkeypatch.setenv("INTERPROTO_PROGRESS", "lines")
    assert resolve_style("auto") == "lines"
    assert resolve_style("none") == "none"
    monkeypatch.setenv("INTERPROTO_PROGRESS", "loud")
    with pytest.raises(ConfigError, match="progress='loud'"):
        resolve_style("auto")


def test_lines_are_few_and_the_last_one_comes(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("interproto_lib.progress.time.monotonic", lambda: now[0])
    report = count_progress("drawing faces", style="lines")
    for done in range(100, 1001, 100):
        now[0] += 0.5
        report(done, 1000)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "drawing faces: 400 of 1,000 images, 200 a second",
        "drawing faces: 800 of 1,000 images, 200 a second",
        "drawing faces: 1,000 of 1,000 images, 200 a second",
    ]


def test_a_bar_counts_and_silence_is_silent(capsys):
    for style in ("bar", "none"):
        report = count_progress("reading", style=style)
        report(3, 10)
        report(10, 10)
        said = capsys.readouterr()
        assert ("10/10" in said.err) == (style == "bar")
        assert said.out == ""

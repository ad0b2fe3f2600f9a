"""The way notebooks are driven in the browser finds what goes wrong; otherwise the other tests here prove nothing."""

from __future__ import annotations

import pytest

SCRIPT = """
import anywidget
class Page(anywidget.AnyWidget):
    _esm = '''
    export default {{ render({{ model, el }}) {{ el.textContent = 'drawn'; el.className = 'drawn'; {script} }} }}
    '''
Page()
"""


def test_a_widget_draws_and_nothing_is_amiss(open_notebook):
    page = open_notebook([SCRIPT.format(script="")])
    page.run_all()
    page.page.locator(".drawn").wait_for()
    page.check()
    page.theme("dark")
    assert page.picture("lab_dark").stat().st_size > 5000


def test_what_goes_wrong_is_found(open_notebook):
    page = open_notebook(
        [
            SCRIPT.format(script="setTimeout(() => { throw new Error('from a widget'); }, 0);"),
            SCRIPT.format(script="fetch('https://example.org/x.js').catch(() => null);"),
            "import sys; print('to the error stream', file=sys.stderr)",
            "1 / 0",
        ]
    )
    page.run_all(may_fail=True)
    page.page.locator(".drawn").nth(1).wait_for()
    page.page.wait_for_timeout(300)
    assert len(page.cell_errors()) == 2
    assert page.outside
    assert set(page.outside) == {"https://example.org/x.js"}
    assert any("from a widget" in error for error in page.errors)
    with pytest.raises(AssertionError):
        page.check()
    page.outside.clear()
    page.errors.clear()

"""HTML pages of notebooks: complete, and opened without a request to any host."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import nbformat
import pytest

from interproto_lib.errors import ConfigError
from interproto_lib.html import export_html, remote_loads

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def export(folder: Path, *cells: nbformat.NotebookNode) -> str:
    path = folder / "page.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), path)
    return export_html(path, folder / "new" / "page.html").read_text(encoding="utf-8")


def output(data: dict[str, object]) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(
        "secret_source()", execution_count=1, outputs=[nbformat.v4.new_output("display_data", data=data)]
    )


@pytest.mark.parametrize(
    ("page", "loads"),
    [
        ('<script src="https://host/x.js"></script>', ["https://host/x.js"]),
        ('<link rel="stylesheet" href="//host/x.css">', ["//host/x.css"]),
        ('<img src="http://host/x.png"><iframe src=" https://host/f">', ["http://host/x.png", "https://host/f"]),
        ('<p style="background: url(https://host/b.png)">', ["https://host/b.png"]),
        ("<style>@import 'https://host/a.css'; b {src: url(\"https://host/f.woff\")}</style>", 2),
        ('<script>const m = await import("https://host/m.mjs");</script>', ["https://host/m.mjs"]),
        ('<script type="module">import x from "https://host/m.mjs";</script>', ["https://host/m.mjs"]),
        ('<svg><image xlink:href="https://host/x.png"/></svg>', ["https://host/x.png"]),
        ('<a href="https://host/page">read</a> <code>import("https://host")</code>', []),
        ('<svg xmlns="http://www.w3.org/2000/svg"><image href="data:image/png;base64,AA"/></svg>', []),
        ("<script>// see https://host/docs</script>", []),
    ],
)
def test_remote_loads(page, loads):
    found = remote_loads(page)
    assert len(found) == loads if isinstance(loads, int) else found == loads


def test_page_holds_pictures_formulas_and_outputs_and_loads_nothing(tmp_path):
    (tmp_path / "figure.png").write_bytes(PIXEL)
    page = export(
        tmp_path,
        nbformat.v4.new_markdown_cell(
            "# Title with $s = 32$\n\nInline $\\cos\\theta_{ij} < 1$ and `$code$`, a price of $5 and $6.\n\n"
            "$$\nL = \\sum_{i \\ne j} C_{ij}^2\n$$\n\n```\n$$raw$$\n```\n\n![picture](figure.png) "
            "[a link](https://example.org)"
        ),
        output({"image/png": base64.b64encode(PIXEL).decode(), "text/plain": "Figure"}),
        output({"text/markdown": "It found $r = 0.5$.", "text/plain": "It found"}),
        output({"text/html": "<table><tr><td>42 rows</td></tr></table>"}),
        output({"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "the widget's text"}),
    )
    assert remote_loads(page) == []
    assert "<script src" not in page
    assert re.findall(r'<math [^>]*display="(\w+)"', page) == ["inline", "inline", "block", "inline"]
    assert re.search(r"<mi>cos</mi>.*<msub><mi>&#x003B8;</mi><mrow><mi>i</mi><mi>j</mi></mrow></msub>", page)
    assert not re.search(r"formula\d+of", page)
    assert "\\sum" not in page
    assert "$code$" in page
    assert "$$raw$$" in page
    assert "$5 and $6" in page
    assert len(re.findall(r'<img[^>]+src="data:image/png;base64,', page)) == 2
    assert "42 rows" in page
    assert "the widget's text" in page.replace("&#39;", "'")
    assert "secret_source" not in page
    assert 'href="https://example.org"' in page


def test_plotly_figures_bring_their_script_once(tmp_path):
    import plotly.graph_objects as go

    bundle = {"application/vnd.plotly.v1+json": go.Figure(go.Scatter(y=[1, 3, 2])).to_plotly_json()}
    bundle["application/vnd.plotly.v1+json"]["data"][0]["y"] = [1, 3, 2]
    page = export(tmp_path, output(bundle), output(bundle))
    assert page.count("Plotly.newPlot(") >= 2
    assert len(page) > 1_000_000
    assert len(page) < 12_000_000
    assert remote_loads(page) == []


VIEW = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}


@pytest.mark.parametrize(
    "code", ["VBox(children=(HTML(value='x'),\n Text(value='')))", "<own.View object at 0x7f884bde3b90>", ""]
)
def test_in_the_place_of_a_widget_stands_that_it_needs_a_kernel(tmp_path, code):
    page = export(tmp_path, output({**VIEW, "text/plain": code}))
    assert page.count("It needs a running kernel: open the notebook there and run its cells.</p>") == 1
    assert "VBox" not in page
    assert "object at" not in page
    assert remote_loads(page) == []


def test_a_progress_bar_stays_as_it_ended(tmp_path):
    page = export(tmp_path, output({**VIEW, "text/plain": "100%|####| 8/8 [00:01&lt;]"}))
    assert "100%|####| 8/8" in page
    assert "running kernel" not in page


def test_the_explorers_say_what_they_are(tmp_path):
    import numpy as np

    from interproto_lib.views.explorer.similarity_map import Side, SimilarityMap
    from interproto_lib.views.explorer.tiles import LinkedMatrices, MatrixTerm, TermMatrix

    term = MatrixTerm(rows=np.eye(3, dtype=np.float32), columns=np.eye(3, dtype=np.float32))
    shown = SimilarityMap(LinkedMatrices([TermMatrix(terms=(term,))]), ["run"], Side(names=["a", "b", "c"]))
    data, _ = shown._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    page = export(tmp_path, output(data))
    assert "<p style" in page
    assert "The similarity map stands here in JupyterLab. It needs a running kernel" in page


def test_links_to_notebooks_lead_to_their_pages(tmp_path):
    text = "see [one](01_one.ipynb), [other](../notebooks/02_other.ipynb) and [the text](notes.md)"
    path = tmp_path / "page.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]), path)
    page = export_html(path, tmp_path / "page.html", siblings=["01_one"]).read_text(encoding="utf-8")
    assert '<a href="01_one.html">one</a>, other and <a href="notes.md">the text</a>' in page


def test_a_picture_from_a_host_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"would load https://example\.org/x\.png"):
        export(tmp_path, nbformat.v4.new_markdown_cell("![x](https://example.org/x.png)"))
    assert not (tmp_path / "new" / "page.html").exists()


def test_what_is_no_notebook_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="There is no notebook"):
        export_html(tmp_path / "none.ipynb", tmp_path / "x.html")
    (tmp_path / "text.ipynb").write_text("hello")
    with pytest.raises(ConfigError, match="is not a notebook"):
        export_html(tmp_path / "text.ipynb", tmp_path / "x.html")


def test_a_matplotlib_figure_from_a_real_kernel(tmp_path, write_notebook):
    from interproto_lib.batch import run_notebook

    cells = [
        "import matplotlib.pyplot as plt\nfrom matplotlib_inline.backend_inline import set_matplotlib_formats\n"
        "set_matplotlib_formats('svg')\nfigure, axes = plt.subplots()\naxes.plot([1, 2])\nplt.show()"
    ]
    source = write_notebook(tmp_path / "figure.ipynb", "n: int = 1  # n", cells)
    run_notebook(source, tmp_path / "out.ipynb", stream=io.StringIO())
    page = export_html(tmp_path / "out.ipynb", tmp_path / "out.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/svg+xml;base64,') == 1
    assert remote_loads(page) == []

from xml.etree import ElementTree

from matplotlib.figure import Figure

from patchwork.figures.rendered import html_table
from patchwork.figures.style import ERROR, PALETTE, TEXT
from patchwork.figures.svg import figure_svg


def make_figure() -> Figure:
    figure = Figure(figsize=(3, 2))
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], "o-", color=PALETTE[0])
    axes.set_title("<title> & more", color=TEXT, parse_math=False)
    axes.axhline(0.5, color=ERROR)
    return figure


def test_svg_is_the_same_bytes_with_the_colors_of_the_page_and_unique_ids() -> None:
    svg = figure_svg(make_figure(), "one", 'a "line"')
    assert svg == figure_svg(make_figure(), "one", 'a "line"')
    root = ElementTree.fromstring(svg)
    assert (root.get("role"), root.get("aria-label")) == ("img", 'a "line"')
    assert all(color not in svg for color in (TEXT, ERROR, PALETTE[0]))
    assert all(f"var(--{name})" in svg for name in ("text", "error", "c0"))
    assert "&lt;title&gt; &amp; more" in svg  # as text, not as paths
    other = ElementTree.fromstring(figure_svg(make_figure(), "two", ""))
    ids = [{element.get("id") for element in tree.iter() if element.get("id")} for tree in (root, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    links = [element.get("{http://www.w3.org/1999/xlink}href") for element in root.iter()]
    assert {link.removeprefix("#") for link in links if link} <= ids[0]


def test_text_of_a_figure_and_its_description_stay_as_they_are() -> None:
    figure = Figure(figsize=(3, 2))
    text = f'run\\1 {TEXT} "#a" url(#b) font: 3px x'
    figure.add_subplot().set_title(text, parse_math=False)
    svg = figure_svg(figure, "one", r"C:\runs\g<1>")
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == r"C:\runs\g<1>"
    assert text in [element.text for element in root.iter() if element.tag.endswith("text")]


def test_table_escapes_its_texts() -> None:
    table = html_table(["<a>", "b"], [["<script>", "&"]])
    assert "<script>" not in table
    assert table.count("<th") == 3 + 1  # with <thead>
    ElementTree.fromstring(table.replace("&lt;", "").replace("&gt;", "").replace("&amp;", ""))

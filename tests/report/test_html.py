"""The page of a run: whole in itself, and with nothing in it that was not meant."""

from html.parser import HTMLParser

from minicnn import Dense, Flatten, Network
from minicnn.evaluation.metrics import Evaluation
from minicnn.insight.compare import RunCurves
from minicnn.report.html import picture, run_page, table

NETWORK = Network((2, 2), [Flatten(), Dense(2)], name="<b>tiny</b>")
EVALUATION = Evaluation(
    4, None, 0.75, [0.5, 1.0], [1.0, None], [[1, 0], [1, 2]], ["<i>ant</i>", "bee & cat"], 1.0, 0.0
)
REPORT = {
    "seconds": 2.0,
    "explanation": "all <1> epochs are done",
    "settings": {"opt": "adam", "kwargs": {"beta": 0.9, "rate": 1.0714285714285714}},
    "warnings": [{"epoch": 2, "kind": "dead units", "text": "dead units: try <this>"}],
    "machine": {"cores": 2},
    "versions": {"python": "3"},
}


class Page(HTMLParser):
    """Checks that what is opened is closed; collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page(run=None, sections=()):
    return run_page("my run", NETWORK, EVALUATION, run, sections)


def test_text_is_shown_literally():
    shown = Page(page(RunCurves("a", [], {}, REPORT)))
    assert "b" not in shown.tags and "i" not in shown.tags
    assert "<b>tiny</b>, 10 parameters" in shown.text and "all <1> epochs are done" in shown.text
    assert "warning after epoch 2: dead units: try <this>" in shown.text
    assert (
        'kwargs{"beta": 0.9, "rate": 1.07143}' in shown.text
        and "accuracy 75.00 % ± 21.65 on 4 images" in shown.text
    )
    assert Page(table(["a", "b"], [("<x>", "&")])).text.split() == ["ab", "<x>&"]


def test_the_page_needs_no_script_and_no_network(tmp_path):
    for name in ("a.svg", "b.png"):
        (tmp_path / name).write_bytes(b"picture")
    text = page(
        None,
        [("Curves", picture(tmp_path / "a.svg", 'a "curve"') + picture(tmp_path / "b.png", "b"))],
    )
    shown = Page(text)
    assert (
        "script" not in shown.tags
        and "link" not in shown.tags
        and "http" not in text
        and "url(" not in text
    )
    sources = [value for name, value in shown.attributes if name in ("src", "href")]
    assert sources == [
        "data:image/svg+xml;base64,cGljdHVyZQ==",
        "data:image/png;base64,cGljdHVyZQ==",
    ]
    assert ("alt", 'a "curve"') in shown.attributes


def test_the_page_fits_narrow_windows_and_dark_settings():
    text = page()
    assert (
        "width=device-width" in text and "color-scheme: light dark" in text and 'lang="en"' in text
    )
    assert "min-width" not in text  # pictures shrink with the window
    assert text.startswith("<!DOCTYPE html>") and '<meta charset="utf-8">' in text


def test_a_table_of_figures_fits_a_narrow_window():
    """As measured in a browser at 400 pixels: no part of the page is wider than the window."""
    narrow = page().partition("@media (max-width: 30rem) {")[2].partition("</style>")[0]
    assert "table { font-size: .8rem; }" in narrow and "padding-right: .4rem" in narrow
    assert "img { display: block; width: 100%;" in page()
    assert 'content="width=device-width, initial-scale=1"' in page()

"""Pictures for a paper: their size, what is refused, and that nothing is left of what failed."""

from __future__ import annotations

import re
import struct
import sys

import pytest
from browsing import CHROMIUM
from synthetic import massive_scan, sink_scan

from lensprobe.errors import ArgumentError, OutputError
from lensprobe.plot import image

drawing = pytest.mark.skipif(CHROMIUM is None, reason="drawing a picture needs chromium")
COLUMN = 85 / 25.4


@pytest.fixture
def drawn(monkeypatch):
    """No browser: what would be drawn."""
    asked = []

    def draw(figure, form, path):
        asked.append((figure, form))
        return b"picture"

    monkeypatch.setattr(image, "_drawn", draw)
    return asked


@drawing
@pytest.mark.browser
def test_a_bitmap_and_a_page_of_a_column(tmp_path):
    pytest.importorskip("kaleido")
    scan = massive_scan()
    bitmap = scan.to_image(tmp_path / "a.png").read_bytes()
    assert bitmap.startswith(b"\x89PNG")
    wide, high = struct.unpack(">II", bitmap[16:24])
    assert wide == round(COLUMN * 96) * image.DOTS
    assert 0.6 * wide < high < 1.2 * wide
    page = scan.to_image(tmp_path / "a.pdf").read_bytes()
    assert page.startswith(b"%PDF")
    box = re.search(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)", page)
    assert box is not None
    assert float(box.group(1)) == pytest.approx(COLUMN * 72, abs=1.5)


def test_paper_is_the_default_and_has_no_title(drawn, tmp_path):
    scan = massive_scan()
    assert scan.to_image(tmp_path / "a.svg") == tmp_path / "a.svg"
    assert (tmp_path / "a.svg").read_bytes() == b"picture"
    scan.to_image(tmp_path / "b.JPEG", theme="light", width_mm=170)
    scan.to_image(tmp_path / "c.pdf", title="Mine")
    (plain, form), (light, other), (titled, _) = drawn
    assert (form, other) == ("svg", "jpg")
    assert not plain.layout.title.text
    assert plain.layout.template.layout.font.size == 10
    assert light.layout.title.text and light.layout.width == 643
    assert titled.layout.title.text == "Mine"


@pytest.mark.parametrize("names", [1, 4, 12])
def test_a_long_legend_takes_no_room_from_the_data(drawn, tmp_path, names):
    """The drawn area has the same height however many lines there are."""
    from lensprobe.plot.printing import printed_height
    from lensprobe.plot.theme import go

    traces = [go.Scatter(name=f"a name of some length {i}") for i in range(names)]
    options = {"size": 10, "top": 16, "legend": True}
    height = printed_height(321, 440, traces, **options)
    assert height - printed_height(321, 440, traces[:1], **options) == 19 * (names - 1)


def test_other_views_with_their_options(drawn, tmp_path):
    sink_scan().to_image(tmp_path / "a.png", view="heads", key=2)
    assert drawn[0][0].data[0].type == "heatmap"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("a.gif", {}, r"one of \.png"),
        ("a", {}, r"one of \.png"),
        ("a.png", {"view": "landscap"}, "Did you mean 'landscape'"),
        ("a.png", {"theme": "sepia"}, "light, dark, paper"),
        ("a.png", {"width_mm": 0}, "width_mm"),
        ("a.png", {"them": "dark"}, "Did you mean 'theme'"),
    ],
)
def test_what_is_refused(drawn, tmp_path, name, options, words):
    with pytest.raises(ArgumentError, match=words):
        massive_scan().to_image(tmp_path / name, **options)
    assert not list(tmp_path.iterdir()) and not drawn


def test_a_figure_with_no_data_is_no_picture(drawn, tmp_path):
    with pytest.raises(ArgumentError, match=r"nothing to draw\. Here no activation"):
        massive_scan(empty=True).to_image(tmp_path / "a.png", view="values")
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept(drawn, tmp_path):
    path = tmp_path / "a.png"
    path.write_text("mine")
    with pytest.raises(OutputError, match="overwrite=True"):
        massive_scan().to_image(path)
    assert path.read_text() == "mine" and not drawn
    massive_scan().to_image(path, overwrite=True)
    assert path.read_bytes() == b"picture"


def test_without_kaleido_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(OutputError, match=r"lensprobe\[image\]"):
        massive_scan().to_image(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_without_a_browser_the_error_says_so(monkeypatch, tmp_path):
    kaleido = pytest.importorskip("kaleido")
    from choreographer.errors import ChromeNotFoundError

    def missing(*_, **__):
        raise ChromeNotFoundError("none")

    monkeypatch.setattr(kaleido, "calc_fig_sync", missing)
    with pytest.raises(OutputError, match="BROWSER_PATH"):
        massive_scan().to_image(tmp_path / "a.png")
    monkeypatch.setattr(kaleido, "calc_fig_sync", lambda *_, **__: 1 / 0)
    with pytest.raises(OutputError, match="ZeroDivisionError"):
        massive_scan().to_image(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())

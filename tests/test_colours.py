"""Colours computed: how far apart they are for dichromats, how they rise in lightness, WCAG contrast.

Dichromats are simulated after Machado et al. (2009, severity 1), tritanopia after Brettel et al. (1997)
too, for which Machado's model is the weaker; differences are CIEDE2000, lightness is CIE L*, and
contrast is that of WCAG 2.1 (level AA: 4.5 to 1 for text, 3 to 1 for graphics).
"""

from __future__ import annotations

import re
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from coloraide import Color

import lensprobe
from lensprobe.plot.interpolation_cells import STRONGEST
from lensprobe.plot.theme import THEMES
from lensprobe.reporting.attention_view import INK
from lensprobe.reporting.token_view import MOST

SIGHT = {
    "full": (),
    "protanopia": ("protan", "machado"),
    "deuteranopia": ("deutan", "machado"),
    "tritanopia": ("tritan", "machado"),
    "tritanopia (Brettel)": ("tritan", "brettel"),
}
APART = 12.0
"""Least CIEDE2000 of two kinds of line; about 2 is where a trained eye sees a difference."""
CLEAR = 20.0
"""Least CIEDE2000 of what is told apart by colour alone: two signs, the two ends of a map."""
TEXT, GRAPHIC = 4.5, 3.0
TEMPLATES = Path(lensprobe.__file__).parent / "reporting" / "templates"
CSS = "".join(file.read_text("utf-8") for file in sorted(TEMPLATES.glob("*.css")))


@cache
def seen(colour: str, sight: str) -> Color:
    """A colour as it looks to somebody."""
    given = Color(colour)
    if not SIGHT[sight]:
        return given
    kind, method = SIGHT[sight]
    return given.filter(kind, method=method).convert("srgb").clip()


def lightness(colour: str, sight: str = "full") -> float:
    return seen(colour, sight).convert("lab-d65")["lightness"]


@cache
def difference(one: str, two: str, sight: str) -> float:
    return seen(one, sight).delta_e(seen(two, sight), method="2000")


def contrast(one: str, two: str) -> float:
    return Color(one).contrast(two, method="wcag21")


def rising(colours: tuple[str, ...], sight: str) -> bool:
    steps = [lightness(colour, sight) for colour in colours]
    return steps in (sorted(set(steps)), sorted(set(steps), reverse=True))


@pytest.fixture(params=list(THEMES))
def theme(request):
    return THEMES[request.param]


def test_the_measures_are_the_published_ones():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)
    # Red and green of one lightness, which is what a deuteranope confuses.
    assert (
        difference("#b35900", "#737300", "full")
        > 20
        > difference("#b35900", "#737300", "deuteranopia")
    )
    # Pure red in Machado's matrix for deuteranopia: its first column in linear light.
    linear = seen("#ff0000", "deuteranopia").convert("srgb-linear").coords()
    assert linear == pytest.approx([0.367322, 0.280085, 0.0], abs=1e-5)


@pytest.mark.parametrize("sight", SIGHT)
def test_lines_differ_for_every_eye(theme, sight):
    for one, two in combinations(theme.lines, 2):
        assert difference(one, two, sight) >= APART, (one, two)
    # Lines to compare with are grey and dashed as well, so they may come nearer.
    assert min(difference(line, theme.muted, sight) for line in theme.lines[:5]) >= 8
    # Signs and "this one against the rest" are told by the first two alone, or by one against grey.
    for one, two in ((0, 1), (0, 5), (1, 5)):
        assert difference(theme.lines[one], theme.lines[two], sight) >= CLEAR


@pytest.mark.parametrize("sight", SIGHT)
def test_shades_of_one_colour_differ_by_lightness(theme, sight):
    assert rising(theme.shades, sight)
    for one, two in combinations(theme.shades, 2):
        assert abs(lightness(one, sight) - lightness(two, sight)) >= 10


@pytest.mark.parametrize("sight", SIGHT)
def test_sequential_maps_rise_in_lightness(theme, sight):
    assert rising(theme.sequential, sight)
    steps = [lightness(colour, sight) for colour in theme.sequential]
    gaps = [abs(b - a) for a, b in pairwise(steps)]
    assert abs(steps[-1] - steps[0]) >= 70 and min(gaps) >= 3


@pytest.mark.parametrize("sight", SIGHT)
def test_diverging_maps_have_two_arms_that_differ(theme, sight):
    middle = len(theme.diverging) // 2
    arms = theme.diverging[: middle + 1], theme.diverging[middle:]
    assert all(rising(arm, sight) for arm in arms)
    low, high = (lightness(theme.diverging[end], sight) for end in (0, -1))
    assert abs(low - high) <= 12
    for step in range(middle):
        one, two = theme.diverging[step], theme.diverging[-1 - step]
        assert difference(one, two, sight) >= CLEAR * (middle - step) / middle, (one, two)


def test_text_is_read_on_every_ground(theme):
    for ground in (theme.page, theme.surface):
        for ink in (theme.ink, theme.muted, theme.lines[0], theme.lines[1]):
            assert contrast(ink, ground) >= TEXT, (ink, ground)


def test_marks_stand_out_from_the_ground(theme):
    for mark in (*theme.lines, *theme.shades):
        assert contrast(mark, theme.surface) >= GRAPHIC, mark


def test_tokens_are_read_on_the_part_of_a_map_that_they_stand_on(theme):
    for cell in (*theme.cells, *theme.signed_cells):
        assert contrast(theme.ink, cell) >= TEXT, cell


def test_tokens_are_read_on_the_strongest_tint_of_a_cell(theme):
    for line in theme.lines:
        tinted = Color(theme.surface).mix(line, STRONGEST, space="srgb").to_string(hex=True)
        assert contrast(theme.ink, tinted) >= TEXT, line


def test_pages_take_every_colour_from_a_theme():
    """What stands in a page's styles is either a theme's colour or white paper to print on."""
    css = (TEMPLATES / "report.css").read_text("utf-8")
    html = (TEMPLATES / "report.html.j2").read_text("utf-8")
    literal = re.compile(r"#[0-9a-fA-F]{3,8}\b|\b(?:rgb|hsl|lab|lch)a?\(")
    assert not literal.findall(css)
    assert literal.findall(html) == ["#fff"]


def test_what_is_faded_can_still_be_read(theme):
    """On pages and in notebooks; what cannot be pressed is exempt (WCAG 2.1, 1.4.3)."""
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", CSS)
    faded = {
        (name.strip(), float(value))
        for name, rule in rules
        for value in re.findall(r"(?<![-\w])opacity:(0?\.\d+)", rule)
        if ":disabled" not in name
    }
    assert len(faded) >= 5
    for name, opacity in faded:
        least = GRAPHIC if "::" in name else TEXT
        assert over(theme.ink, opacity, theme.surface) >= least, (name, opacity)


def test_marks_in_notebooks_stand_out_from_light_and_dark(theme):
    marks = set(re.findall(r"#[0-9a-f]{6}\b", CSS))
    assert marks
    for mark in marks:
        assert min(contrast(mark, ground) for ground in (theme.page, theme.surface)) >= GRAPHIC


def test_tokens_are_read_on_the_strongest_ink_behind_them(theme):
    """In notebooks, whose text and ground are their own."""
    ink = Color("srgb", [part / 255 for part in INK]).to_string(hex=True)
    # The widget's strongest is written in its script.
    script = (TEMPLATES / "attention.js").read_text("utf-8")
    (widget,) = re.findall(r"rgba\(\$\{ink\}, \$\{\(([\d.]+) \* shade\(", script)
    for most in (MOST, float(widget)):
        behind = Color(theme.surface).mix(ink, most, space="srgb").to_string(hex=True)
        assert contrast(theme.ink, behind) >= TEXT


def over(ink: str, opacity: float, ground: str) -> float:
    mixed = Color(ground).mix(ink, opacity, space="srgb").to_string(hex=True)
    return contrast(mixed, ground)

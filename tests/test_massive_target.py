"""`at=`, `dim=`, `position=`: what each comes to, and what is refused before a pass is paid for."""

from __future__ import annotations

import pytest

import lensprobe as lp
from lensprobe.errors import ArgumentError
from lensprobe.massive.result import Finding
from lensprobe.massive.target import Target, Targets, resolve
from lensprobe.models.adapter import adapter_for
from lensprobe.models.planted import PLANTED
from lensprobe.tokens import Encoded, encoded

TEXTS = ["Hello world, this is", "The cat sat on the mat."]
FINDING = Finding(dim=447, position=0, layers=(1, 2, 3), site="resid_post", value=3000.0)


@pytest.fixture
def adapter(planted):
    return adapter_for(planted)


@pytest.fixture
def rows(adapter):
    return [encoded(adapter, text) for text in TEXTS]


def test_a_finding_is_a_target_with_its_layers(adapter, rows):
    assert resolve(adapter, rows, at=FINDING).one == Target(447, 0, (1, 2, 3), "resid_post")


def test_a_scan_stands_for_its_strongest_finding(planted, adapter, rows):
    scan = lp.massive.scan(planted, TEXTS, ratio=500, progress=False)
    target = resolve(adapter, rows, at=scan).one
    assert (target.dim, target.position) == (PLANTED.dims[0], PLANTED.position)
    assert target.layers == scan.strongest.layers
    both = resolve(adapter, rows, at=[scan.at(0), scan.at(1), scan.at(0)])
    assert [t.dim for t in both.each] == list(PLANTED.dims)


def test_a_dimension_is_at_position_0_unless_said(adapter, rows):
    assert resolve(adapter, rows, dim=5).one == Target(5, 0)
    assert resolve(adapter, rows, dim=5, position=3).one == Target(5, 3)


def test_nothing_given_is_the_strongest_of_these_texts_and_says_so(adapter, rows):
    found = resolve(adapter, rows)
    assert (found.one.dim, found.one.position) == (447, 0)
    assert found.one.layers == (1, 2, 3)
    assert "scan" in found.notes[0]
    assert resolve(adapter, rows, dim=447).notes == ()
    assert resolve(adapter, rows, position=0).one == found.one


def test_running_options_do_not_change_the_scan(adapter, rows):
    with lp.options(dry_run=True, length=2):
        assert resolve(adapter, rows).one.dim == 447
    # Texts of one token, BOS alone, are scanned too.
    assert resolve(adapter, [Encoded((PLANTED.bos_token,))]).one.dim == 447


def test_a_position_takes_the_place_of_a_findings_own(adapter, rows):
    loose = Finding(dim=3, position=-1, layers=(2,), site="resid_post", value=200.0)
    assert resolve(adapter, rows, at=loose, position=2).one.position == 2
    with pytest.raises(ArgumentError, match=r"not always at the same position; add position="):
        resolve(adapter, rows, at=loose)


def test_one_of_several_is_refused():
    both = Targets((Target(1, 0), Target(2, 0)))
    with pytest.raises(ArgumentError, match=r"takes one coordinate; got 2 \(dim 1 at position 0"):
        _ = both.one
    assert both.provenance()["targets"][1]["dim"] == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"at": FINDING, "dim": 447}, "at= and dim=447: give one of them"),
        ({"dim": 768}, r"dim=768: .* dimensions 0 to 767"),
        ({"dim": -1}, r"dim=-1: .* dimensions 0 to 767"),
        ({"dim": 1.5}, r"dim=1\.5: a whole number"),
        ({"dim": True}, "dim=True: a whole number"),
        ({"dim": 1, "position": -1}, "position=-1: positions count from 0"),
        ({"dim": 1, "position": 21}, r"1 of 2 texts are too short for it; text 0 has 21 tokens"),
        ({"dim": 1, "position": "0"}, "position='0': a whole number"),
        ({"position": 3}, "no massive activation was found in these texts at position 3"),
        ({"at": []}, r"at=\[\]: name at least one"),
        ({"at": "447"}, r"at='447': a finding of lp\.massive\.scan"),
        ({"at": [FINDING, 447]}, "at=447: a finding"),
        ({"at": Finding(1, 0, (7,), "resid_post", 1.0)}, r"found at layer 7; .* 0 to 5"),
        ({"at": Finding(1, 0, (1,), "attn.z", 1.0)}, r"site 'attn\.z', whose dimensions"),
        ({"at": Finding(900, 0, (1,), "resid_mid", 1.0)}, "dim=900"),
    ],
)
def test_what_is_out_of_range_is_refused(adapter, rows, given, message):
    with pytest.raises(ArgumentError, match=message):
        resolve(adapter, rows, **given)


def test_the_text_that_lacks_a_position_is_named(adapter):
    rows = [Encoded((1, 2, 3)), Encoded((1,))]
    with pytest.raises(ArgumentError, match=r"position=2: 1 of 2 .*; text 1 has 1 token, 0 to 0"):
        resolve(adapter, rows, dim=1, position=2)
    with pytest.raises(ArgumentError, match=r"position=4: text 0 has 3 tokens, 0 to 2\.$"):
        resolve(adapter, rows[:1], dim=1, position=4)


def test_no_massive_activation_is_said(tiny_gpt2):
    adapter = adapter_for(tiny_gpt2)
    with pytest.raises(ArgumentError, match=r"no massive activation .*; name dim= and position="):
        resolve(adapter, [encoded(adapter, "Hello world")])

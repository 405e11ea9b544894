from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tagmask.training.wording import mirrored

CORNERS = {"upper left": (0, 0), "upper right": (0, -1), "lower left": (-1, 0), "lower right": (-1, -1)}
SIDES = {
    "left": (slice(None), 0),
    "right": (slice(None), -1),
    "upper": (0, slice(None)),
    "lower": (-1, slice(None)),
}
CHANGES = list(itertools.product((False, True), (False, True), range(4)))
WORDS = ("left", "right", "upper", "lower")


def changed(picture: torch.Tensor, left_right: bool, upper_lower: bool, turns: int) -> torch.Tensor:
    picture = torch.rot90(picture, turns, (-2, -1))
    picture = picture.flip(-1) if left_right else picture
    return picture.flip(-2) if upper_lower else picture


def inverse(left_right: bool, upper_lower: bool, turns: int) -> tuple[bool, bool, int]:
    """One flip makes a reflection, which undoes itself; else it is a turn, which is turned back."""
    return (left_right, upper_lower, turns if left_right != upper_lower else -turns)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("places", [CORNERS, SIDES])
def test_the_word_goes_where_the_bright_spot_goes(
    places: dict[str, tuple[int | slice, int | slice]], change: tuple[bool, bool, int]
) -> None:
    for word, place in places.items():
        picture = torch.zeros(6, 6)
        picture[place] = 1
        text = mirrored(f"The density in the {word} is high.", *change)
        name = text.removeprefix("The density in the ").removesuffix(" is high.")
        assert changed(picture, *change)[places[name]].all(), (word, name)


@pytest.mark.parametrize("change", CHANGES)
def test_the_patients_left_lies_on_the_right(change: tuple[bool, bool, int]) -> None:
    seen = {"left": "right", "right": "left"}
    for word in SIDES:
        picture = torch.zeros(6, 6)
        picture[SIDES[seen.get(word, word)]] = 1
        name = mirrored(word, *change, of_patient=True)
        assert changed(picture, *change)[SIDES[seen.get(name, name)]].all(), (word, name)
        if change[2] % 2 == 0:
            assert name == mirrored(word, *change)


@pytest.mark.parametrize(
    ("text", "flipped", "turned"),
    [
        ("upper left", "upper right", "lower left"),
        ("left upper lobe", "right upper lobe", "left lower lobe"),
        ("Left-sided, LEFT", "Right-sided, RIGHT", "Lower-sided, LOWER"),
        ("leftmost and Uppermost", "rightmost and Uppermost", "lowermost and Leftmost"),
        ("upper-left", "upper-right", "lower-left"),
        ("Upper  left.", "Upper  right.", "Lower  left."),
        (
            "all left lung and all right lung",
            "all right lung and all left lung",
            "all lower lung and all upper lung",
        ),
        ("(left)", "(right)", "(lower)"),
        ("left, upper", "right, upper", "lower, left"),
        ("left\nlung", "right\nlung", "lower\nlung"),
        ("left right", "right left", "lower upper"),
        ("mid-left, non-right", "mid-right, non-left", "mid-lower, non-upper"),
    ],
)
def test_words(text: str, flipped: str, turned: str) -> None:
    assert mirrored(text, True, False, 0) == flipped
    assert mirrored(text, False, False, 1) == turned


@pytest.mark.parametrize(
    "text",
    [
        *(
            "She is all right.",
            "All right, then",
            "is all left",
            "a leftover",
            "left-over",
            "upright",
            "bright",
        ),
        *("The density is lower than before.", "a left-handed man", "blower, flower", "rightly", "copyright"),
        *("", "The nuclei are evenly distributed.", "bilateral pulmonary infection", "左"),
    ],
)
def test_what_is_no_place_stays(text: str) -> None:
    assert all(mirrored(text, *change) == text for change in CHANGES)


def test_nothing_changes_without_a_change() -> None:
    text = "Bilateral pulmonary infection, two infected areas, upper left lung and Lower Right lung."
    assert mirrored(text, False, False, 0) == mirrored(text, False, False, -4) == text
    assert mirrored(text, True, True, 2) == text
    assert mirrored(text, False, False, -1) == mirrored(text, False, False, 3)


PIECES = st.sampled_from(
    [
        *(form(word) for word in WORDS for form in (str, str.title, str.upper)),
        *("leftmost", "Uppermost", "left-sided", "left-handed", "leftover", "all", "than", "lung", ",", "."),
    ]
)
JOINTS = st.sampled_from([" ", "-", "  ", ", ", "\n"])


@given(st.lists(st.tuples(PIECES, JOINTS), max_size=9), st.sampled_from(CHANGES), st.booleans())
def test_undone_by_the_inverse(
    pieces: list[tuple[str, str]], change: tuple[bool, bool, int], of_patient: bool
) -> None:
    text = "".join(itertools.chain.from_iterable(pieces))
    there = mirrored(text, *change, of_patient=of_patient)
    assert mirrored(there, *inverse(*change), of_patient=of_patient) == text


@given(st.lists(st.tuples(PIECES, JOINTS), max_size=6), st.sampled_from(CHANGES), st.sampled_from(CHANGES))
def test_two_changes_are_their_product(
    pieces: list[tuple[str, str]], one: tuple[bool, bool, int], other: tuple[bool, bool, int]
) -> None:
    text = "".join(itertools.chain.from_iterable(pieces))
    spot = torch.arange(9.0).reshape(3, 3)
    both = changed(changed(spot, *one), *other)
    product = next(c for c in CHANGES if torch.equal(changed(spot, *c), both))
    assert mirrored(mirrored(text, *one), *other) == mirrored(text, *product)

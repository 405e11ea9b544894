"""Left, right, upper and lower in a sentence, kept true when its picture is flipped or turned.

Not followed are other words of place (top, bottom, apical, inferior), abbreviations (RUL) and other languages. Words
that mean something else are taken for places where nothing tells them apart: "the density is lower on the left", "the
patient left".
"""

from __future__ import annotations

import re

__all__ = ["mirrored"]

_FLIPPED = ({"left": "right", "right": "left"}, {"upper": "lower", "lower": "upper"})
# torch.rot90 with k = 1 turns against the clock: what was on the right is at the top.
_TURNED = {"right": "upper", "upper": "left", "left": "lower", "lower": "right"}
_SIDE = r"(?:left|right|upper|lower)"
# One word, or several in a row as "upper left"; "leftmost" is one, "leftover" and "upright" are none. Meant
# otherwise are "all right" at the end of a clause, "lower than", "left-handed" and "left-over". That depends on
# what stands around a word and never on which of the four it is: so every rewriting can be undone.
_PLACE = re.compile(
    rf"(?<!\w)(?!(?<=\ball\s){_SIDE}\s*(?:[.,;:!?)]|$))"
    rf"{_SIDE}(?:most)?(?:[\s-]+{_SIDE}(?:most)?)*(?!\w)(?!\s+than\b|-handed\b|-overs?\b)",
    re.IGNORECASE,
)
_WORD = re.compile(_SIDE, re.IGNORECASE)


def mirrored(
    text: str,
    flip_left_right: bool,
    flip_upper_lower: bool,
    quarter_turns: int,
    *,
    of_patient: bool = False,
) -> str:
    """Rewrite a sentence so that it is true of its picture after a change of the dihedral group.

    The picture x (..., rows, columns) is turned first, `torch.rot90(x, quarter_turns, (-2, -1))`, and then
    flipped, `.flip(-1)` left to right and `.flip(-2)` upside down. Case is kept, and two words in a row keep
    their order of up or down and sideways: "upper left" becomes "lower left" and never "left lower".

    Parameters
    ----------
    text
        The sentence.
    flip_left_right, flip_upper_lower
        Which flips follow the turn.
    quarter_turns
        How many turns by 90 degrees against the clock; negative ones go with it.
    of_patient
        Whether left is the patient's and not the picture's, as in reports of radiographs, where it lies on the
        right. It makes a difference to a single quarter turn alone.

    Returns
    -------
    str
        The sentence; the same where nothing in it is of left, right, upper or lower.

    Examples
    --------
    >>> mirrored("The nuclei density in the upper left is high.", True, False, 0)
    'The nuclei density in the upper right is high.'
    >>> mirrored("Left-sided infection, all right.", False, False, 1)
    'Lower-sided infection, all right.'
    """
    new = {
        word: _moved(word, flip_left_right, flip_upper_lower, quarter_turns, of_patient) for word in _TURNED
    }
    return _PLACE.sub(lambda found: _rewritten(found[0], new), text)


def _moved(word: str, flip_left_right: bool, flip_upper_lower: bool, turns: int, of_patient: bool) -> str:
    """Give the word for where a place comes to lie."""
    sideways, upside = _FLIPPED
    if of_patient:  # there and back: into the picture's sides, and out of them
        word = sideways.get(word, word)
    for _ in range(turns % 4):
        word = _TURNED[word]
    if flip_left_right:
        word = sideways.get(word, word)
    if flip_upper_lower:
        word = upside.get(word, word)
    return sideways.get(word, word) if of_patient else word


def _rewritten(place: str, new: dict[str, str]) -> str:
    old = _WORD.findall(place)
    words = [new[word.lower()] for word in old]
    if (
        len(old) == 2
        and _upright(words[0]) != _upright(old[0].lower())
        and _upright(words[0]) != _upright(words[1])
    ):
        words.reverse()
    fresh = (_cased(word, like) for word, like in zip(words, old, strict=True))
    return _WORD.sub(lambda _: next(fresh), place)


def _upright(word: str) -> bool:
    return word in _FLIPPED[1]


def _cased(word: str, like: str) -> str:
    if like.isupper():
        return word.upper()
    return word.capitalize() if like[0].isupper() else word

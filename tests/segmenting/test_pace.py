"""The search for a batch, on devices whose timing is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tagmask.segmenting.pace import Pace


def work(pace: Pace, seconds: Callable[[int], float], batches: int = 30) -> list[int]:
    """Send batches to a device that takes `seconds(n)` for n slices; give their sizes."""
    sizes = []
    for _ in range(batches):
        sizes.append(pace.size)
        pace.observe(pace.size, seconds(pace.size))
    return sizes


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        (lambda n: n, 1),  # arithmetic binds: a larger batch gains nothing
        (lambda n: n**1.3, 1),  # and may lose
        (lambda n: 0.97 * n if n > 1 else 1.0, 1),  # nor does what could be chance move it
        (lambda n: 5 + n, 64),  # starting costs
        (lambda n: 5 + n if n <= 16 else 4 * n, 16),  # until a cache is full
        (lambda n: 1.0, 64),  # all at once
    ],
)
def test_the_best_size_is_found_and_kept(seconds: Callable[[int], float], best: int) -> None:
    pace = Pace()
    sizes = work(pace, seconds)
    assert sizes[-1] == best and pace.settled
    tried = sorted(set(sizes))
    assert tried == [2**k for k in range(len(tried))]  # doubled, one at a time
    assert len(sizes) - sizes[::-1].index(best) == 30
    assert sizes[12:] == [best] * 18  # and soon


def test_the_first_batch_is_a_warm_up() -> None:
    pace = Pace()
    pace.observe(1, 1000.0)
    assert (pace.size, pace.settled) == (1, False)
    pace.observe(1, 1.0)
    pace.observe(2, 1.9)  # no gain beside 1.0, a great one beside 1000
    pace.observe(4, 3.9)
    assert (pace.size, pace.settled) == (1, True)


def test_a_batch_that_is_not_full_says_nothing() -> None:
    pace = Pace()
    for count, seconds in ((1, 9.0), (1, 1.0), (2, 1.0)):
        pace.observe(count, seconds)
    assert pace.size == 4
    for seconds in (100.0, 1e-6):
        pace.observe(3, seconds)
        assert (pace.size, pace.settled) == (4, False)
    assert work(pace, lambda n: 0.5 * n)[-1] == 2  # the 1e-6 s did not count


def test_the_largest_is_not_passed() -> None:
    pace = Pace(largest=6)
    assert max(work(pace, lambda n: 1.0)) == 6 and pace.settled


def test_a_given_size_stays() -> None:
    pace = Pace(7, settled=True)
    assert set(work(pace, lambda n: 1.0 / n)) == {7}


def test_memory_halves_for_good() -> None:
    pace = Pace(13, settled=True)
    sizes = []
    while pace.out_of_memory():
        sizes.append(pace.size)
    assert sizes == [6, 3, 1]
    assert pace.out_of_memory() is False and pace.size == 1
    searching = Pace()
    work(searching, lambda n: 1.0, batches=4)
    assert searching.size == 8 and searching.out_of_memory()
    assert set(work(searching, lambda n: 1.0)) == {4}  # no second try at what did not fit

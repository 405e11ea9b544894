"""How many slices to send through a method at once: found out while working, not guessed."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Pace", "largest_batch"]

GAIN = 0.95  # a larger batch must take less than this share of the time a slice took before
REACH = 4  # look this many times beyond the best size: a single slow measurement must not end the search


def largest_batch(size: int, device: str) -> int:
    """Give the most slices of a side worth trying at once: on a CPU no more pixels than 64 of 64 px have.

    CUDA says when its memory is full, and then half as many go; a CPU's machine begins to swap, and large slices gain
    nothing there.

    Examples
    --------
    >>> largest_batch(64, "cpu"), largest_batch(256, "cpu"), largest_batch(1024, "cpu")
    (64, 4, 1)
    >>> largest_batch(256, "cuda"), largest_batch(256, "mps")
    (1024, 64)
    """
    if device.startswith("cuda"):
        return 1024
    return 64 if device != "cpu" else min(64, max(1, 64 * 64**2 // size**2))


@dataclass
class Pace:
    """Double the batch while that makes a slice cheaper, look a little further, stay at the best size seen.

    The probe is the work itself: results do not depend on the batch, so nothing is computed twice. On a CPU
    large batches can lose where arithmetic binds; on a GPU they win until the memory ends.

    Parameters
    ----------
    size
        Batch to use next.
    largest
        Never go beyond this.
    settled
        Whether the search is over. Start with True for a fixed size.

    Examples
    --------
    >>> pace = Pace()
    >>> for seconds in (9.0, 1.0, 1.2, 2.4, 5.0):  # a warm-up, then batches of 1, 2, 4 and 8
    ...     pace.observe(pace.size, seconds)
    >>> pace.size, pace.settled
    (2, True)
    """

    size: int = 1
    largest: int = 64
    settled: bool = False
    warm: bool = False
    _best: tuple[float, int] = field(default=(float("inf"), 1), repr=False)

    def observe(self, count: int, seconds: float) -> None:
        """Take note that `count` slices took `seconds` together."""
        if self.settled or count < self.size:  # the last, smaller batch of a job says nothing
            return
        if not self.warm:
            self.warm = True
            return
        cost = seconds / count
        if cost < GAIN * self._best[0]:
            self._best = (cost, count)
        ahead = min(2 * count, self.largest)
        self.settled = ahead == count or count >= REACH * self._best[1]
        self.size = self._best[1] if self.settled else ahead

    def out_of_memory(self) -> bool:
        """Halve the batch for good; False when there is nothing left to halve."""
        if self.size == 1:
            return False
        self.size, self.settled = self.size // 2, True
        return True

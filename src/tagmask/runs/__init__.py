"""The run folder: what it remembers, how it goes on, what was chosen for it, what its networks need beside weights."""

from tagmask.runs.run import Part, Run

__all__ = ["Part", "Run"]

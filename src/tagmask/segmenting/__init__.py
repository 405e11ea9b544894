"""What `tagmask segment` is made of: cases in work, the workbench they share, and the folder they go to."""

VERSION = 1
"""Of the masks: to be raised with every change of a method, of how slices are cut or of a mask rule that moves one, so
that benchmarks segment again."""

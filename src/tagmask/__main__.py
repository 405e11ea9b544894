"""`python -m tagmask`, which `torchrun -m tagmask train ...` needs."""

from __future__ import annotations

from tagmask.cli import main

if __name__ == "__main__":
    main()

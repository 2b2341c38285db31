"""``python -m diffembed``: the command line without its console script."""

from __future__ import annotations

from diffembed.cli import main

if __name__ == "__main__":
    main()

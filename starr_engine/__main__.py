"""``python -m starr_engine`` is ``starr-engine``."""

from __future__ import annotations

import sys

from starr_engine.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

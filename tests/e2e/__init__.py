"""End-to-end tests of the image and the compose file in a Docker Engine: `python -m tests.e2e.container`."""

import sys
from pathlib import Path

# The folder of the demo's programs; for pytest it is in pyproject.toml.
sys.path.append(str(Path(__file__).resolve().parents[2] / "compose"))

"""The built image and the compose file, in a real Docker Engine: `python -m tests.e2e.container`."""

import sys
from pathlib import Path

# Where the demo's containers see their programs; pytest is told in pyproject.toml.
sys.path.append(str(Path(__file__).resolve().parents[2] / "compose"))

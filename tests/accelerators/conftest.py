"""What the tests of accelerators share: where their helpers lie."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

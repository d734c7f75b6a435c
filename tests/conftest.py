"""What do all tests share? Reproducible randomness and no more."""

from __future__ import annotations

import os

from hypothesis import Phase, settings

# No deadline: the first example pays for imports, the disk of a busy machine for any other.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True, max_examples=25)
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=15, phases=[Phase.generate])
settings.load_profile("ci" if os.environ.get("CI") else os.environ.get("HYPOTHESIS_PROFILE", "here"))

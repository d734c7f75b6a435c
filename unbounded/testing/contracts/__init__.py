"""What must a source, a sink and a home of state of your own do? Subclass its contract in a test file, and see.

Needs pytest and hypothesis: `pip install 'unbounded[test]'`.
"""

try:
    import hypothesis  # noqa: F401
    import pytest
except ImportError as error:
    raise ImportError(
        f"the contracts are suites for pytest and hypothesis, and {error.name} is not there. "
        "Install them: pip install 'unbounded[test]'"
    ) from error

# What a contract asserts is told as if it stood in the test file itself.
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in ("histories", "homes", "sinks", "sources")))

from unbounded.testing.contracts.homes import HomeContract  # noqa: E402
from unbounded.testing.contracts.sinks import Reopen, SinkContract  # noqa: E402
from unbounded.testing.contracts.sources import NewWorld, SourceContract, World  # noqa: E402

__all__ = ["HomeContract", "NewWorld", "Reopen", "SinkContract", "SourceContract", "World"]

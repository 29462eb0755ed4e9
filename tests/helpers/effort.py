"""How much a run of tests tries: little by default, much under ``--hypothesis-profile=large``."""

from __future__ import annotations

import hypothesis
import pytest

#: Tests that must not run at the same time as one another.
alone = pytest.mark.xdist_group("alone")


def effort(small: int, large: int) -> int:
    """Of two numbers, of repetitions or whether to do it, that which this run was started for."""
    return large if hypothesis.settings.get_current_profile_name() == "large" else small

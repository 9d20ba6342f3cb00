"""Networks are loaded and compiled each time where that is what is tested."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def networks_once() -> None:
    """Nothing is remembered."""

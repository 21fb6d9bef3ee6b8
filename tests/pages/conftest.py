"""Fixtures of the pages' tests."""

from collections.abc import Iterator

import pytest
from browser import CHROMIUM, DRIVER, MISSING, Browser, opened_browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if DRIVER is None or CHROMIUM is None:
        pytest.skip(MISSING)
    with opened_browser() as opened:
        yield opened

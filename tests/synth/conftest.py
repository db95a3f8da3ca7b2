"""Fixtures of the tests of synthesis."""

from pathlib import Path

import pytest

from tests.synth.small_database import write


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "db"
    assert write(root) == 20
    return root

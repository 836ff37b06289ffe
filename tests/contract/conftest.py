"""A scene, in memory and on real servers."""

from collections.abc import Callable, Iterator

import pytest

from tests.contract.scene import MemoryScene, RealScene, Scene


@pytest.fixture(params=["memory", "real"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    if request.param == "memory":
        yield MemoryScene()
        return
    unique: Callable[[str], str] = request.getfixturevalue("unique")
    made = RealScene(request.getfixturevalue("servers"), unique("contract"))
    yield made
    made.close()

"""One server for all end-to-end tests: starting it is the larger part of them."""

from collections.abc import Iterator

import pytest

from served_here import RunningServer, running, toy_server_config


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running(toy_server_config(tmp_path_factory.mktemp("server"))) as server:
        yield server
    # One line, and then nothing but Ray's notice of the worker that a test kills.
    first, *others = server.log.read_text().splitlines()
    assert first == f"serving on {server.url} (stop with Ctrl-C)"
    assert all("A worker died or was killed" in line for line in others if "(raylet)" in line)
    assert not any("Traceback" in line for line in others)

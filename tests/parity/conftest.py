"""Parity figures are printed when the tests end: a reader should see how near, not only that it was near enough."""

import pytest

_TABLE = pytest.StashKey[list[str]]()


@pytest.fixture
def parity_table(request: pytest.FixtureRequest) -> list[str]:
    """Lines of the table "max |ours - diffusers|"."""
    return request.config.stash.setdefault(_TABLE, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, if a test wrote one."""
    lines = config.stash.get(_TABLE, [])
    if lines:
        terminalreporter.section("max |ours - diffusers| of the UNet's output, float32")
        terminalreporter.write("\n".join(lines) + "\n")

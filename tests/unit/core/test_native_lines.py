import os
import sys

import pytest

from nigaoe.core.native_lines import without_native_lines


def test_native_lines_are_dropped_for_the_block_alone(capfd: pytest.CaptureFixture[str]) -> None:
    sys.stderr.write("before\n")
    with without_native_lines():
        os.write(2, b"advice for developers\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


def test_an_error_in_the_block_gives_stderr_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="no cluster"), without_native_lines():
        raise RuntimeError("no cluster")
    os.write(2, b"said\n")
    assert capfd.readouterr().err == "said\n"

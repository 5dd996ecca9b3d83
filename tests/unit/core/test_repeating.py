"""Something done again and again: at once, for as long as the block, and once more at its end."""

import threading
import time

from nigaoe.core.repeating import Repeating


def test_calls_come_until_the_end_and_none_after_it() -> None:
    calls, thrice = [], threading.Event()

    def call() -> None:
        calls.append(threading.get_ident())
        if len(calls) == 3:
            thrice.set()

    with Repeating(call, 0.01):
        assert thrice.wait(30)
    count = len(calls)
    assert calls[-1] == threading.get_ident() != calls[0]
    time.sleep(0.1)
    assert len(calls) == count


def test_the_first_and_the_last_call_do_not_wait() -> None:
    calls, once = [], threading.Event()

    def call() -> None:
        calls.append(time.monotonic())
        once.set()

    with Repeating(call, 3600):
        assert once.wait(30)
    assert len(calls) == 2

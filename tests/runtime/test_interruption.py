import os
import signal
import threading
import time

import pytest

from visor_jax.runtime.interruption import Interruption


def _send(number):
    os.kill(os.getpid(), number)
    # The handler runs between two bytecodes of the main thread.
    time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_only_sets_the_flag(number):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption.requested
        assert not interruption.agreed(2)
        assert interruption.signal_name is None
        _send(number)
        assert interruption.requested
        assert interruption.agreed(3)
        assert interruption.signal_name == number.name
    assert signal.getsignal(number) is before


def test_second_ctrl_c_stops_at_once_and_handlers_return():
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        _send(signal.SIGINT)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            _send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_repeated_sigterm_waits_for_the_save():
    with Interruption() as interruption:
        _send(signal.SIGTERM)
        _send(signal.SIGTERM)
    assert interruption.signal_name == "SIGTERM"


def test_other_threads_may_enter():
    seen = []

    def work():
        with Interruption() as interruption:
            seen.append(interruption.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]

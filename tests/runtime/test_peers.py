"""What processes tell each other: one's failure ends all, a stop comes for all at once.

The board is a dictionary, each process a few threads.
"""

import threading
import time

import pytest

from visor_jax.runtime import interruption, peers
from visor_jax.runtime.interruption import Interruption
from visor_jax.runtime.peers import Peers

# Here an end is an exception in a thread, of which nothing remains in a real one.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


class Board:
    def __init__(self):
        self.texts, self.gone = {}, False

    def key_value_set(self, key, value):
        if self.gone or key in self.texts:
            raise RuntimeError(key)
        self.texts[key] = value

    def key_value_dir_get(self, key):
        if self.gone:
            raise RuntimeError("the coordinator has gone")
        return [item for item in self.texts.items() if item[0].startswith(key)]


@pytest.fixture
def three():
    """Three processes, and {process: exit code} of those that have ended."""
    board, ended = Board(), {}

    def ends(index):
        def end(code):
            ended[index] = code
            # Its thread goes on no more.
            raise SystemExit(code)

        return end

    processes = [Peers(board, i, 3, end=ends(i), grace_s=0.1) for i in range(3)]
    yield processes, ended, board
    for each in processes:
        each.close()


def wait_for(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()


def test_the_failure_of_one_ends_all_with_its_message_and_code(three, capsys):
    processes, ended, _ = three
    began = time.monotonic()
    with pytest.raises(SystemExit):
        processes[1].leave("the disk is full", 7)
    wait_for(lambda: len(ended) == 3)
    assert ended == {0: 7, 1: 7, 2: 7}
    assert time.monotonic() - began < 5
    said = "error: process 1 of 3 failed: the disk is full\n"
    assert capsys.readouterr().err == 2 * said
    assert processes[1].failure() is None
    assert processes[0].failure() == (said[7:-1], 7)


def test_one_that_ends_by_itself_says_its_own_reason(three, capsys):
    processes, ended, _ = three
    threads = [
        threading.Thread(target=each.leave, args=("they differ", 2))
        for each in processes
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(ended) == 3)
    assert set(ended.values()) == {2}
    assert capsys.readouterr() == ("", "")


def test_a_coordinator_that_has_gone_holds_nobody(three):
    processes, ended, board = three
    board.gone = True
    began = time.monotonic()
    with pytest.raises(SystemExit):
        processes[2].leave("a bug", 1)
    assert time.monotonic() - began < 2
    assert ended == {2: 1}


def run_until_stopped(stop, first, seconds, at, done):
    """Asks after every step, as a loop does that takes so long for one."""
    step = first
    while not stop.agreed(step):
        time.sleep(seconds)
        step += 1
    done[at] = step


@pytest.mark.parametrize("slow", [False, True])
def test_all_stop_after_the_same_step(three, slow, monkeypatch):
    processes, _, _ = three
    monkeypatch.setattr(interruption, "peers", lambda: processes[0])
    stops, done = [Interruption() for _ in processes], {}
    for each, stop in zip(processes, stops, strict=True):
        each.listen(stop)
    # Each is somewhere else, as where steps are handed to devices ahead of time.
    paces = [0.01, 0.3 if slow else 0.011, 0.012]
    loops = [
        threading.Thread(target=run_until_stopped, args=(stop, 5 + i, pace, i, done))
        for i, (stop, pace) in enumerate(zip(stops, paces, strict=True))
    ]
    for loop in loops:
        loop.start()
    time.sleep(0.1)
    assert not any(stop.requested for stop in stops)
    stops[2]._wanted = "SIGTERM"
    wait_for(lambda: len(done) == 3, seconds=60)
    assert len(set(done.values())) == 1, done
    assert [stop.signal_name for stop in stops] == ["SIGTERM"] * 3


def test_a_stop_before_the_loop_holds_from_its_first_question(three, monkeypatch):
    processes, _, _ = three
    monkeypatch.setattr(interruption, "peers", lambda: processes[0])
    stops = [Interruption() for _ in processes]
    stops[0]._wanted = "SIGINT"
    processes[0].listen(stops[0])
    # The others come later.
    time.sleep(0.5)
    for each, stop in zip(processes[1:], stops[1:], strict=True):
        each.listen(stop)
    wait_for(lambda: all(stop.requested for stop in stops))
    assert all(stop.agreed(40) for stop in stops)


def test_one_process_has_no_peers():
    assert peers.peers() is None
    peers.join(0, 1)
    assert peers.peers() is None

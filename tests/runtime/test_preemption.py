"""Signals: what asks to stop, what stops at once, and what the command then says."""

import os
import signal
import threading
import time

import pytest

from ddx.runtime.preemption import Preemption, interruptible, one_line


@pytest.fixture(autouse=True)
def as_in_the_foreground():
    """Signals as a shell gives them to a process in the foreground."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_second_signal_stops_at_once():
    with Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.requested and preemption.unless_requested(lambda: 1) is None
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_work_that_no_signal_meets_has_its_result_and_its_errors():
    with Preemption() as preemption:
        assert preemption.unless_requested(lambda: 3) == 3
        with pytest.raises(KeyError):
            preemption.unless_requested(lambda: {}["x"])
        os.kill(os.getpid(), signal.SIGINT)  # outside of such work it only asks
        assert preemption.requested


def test_sigterm_to_a_job_is_one_line_and_143(capsys):
    with pytest.raises(SystemExit) as stopped, one_line("stopped by a signal"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert stopped.value.code == 143 and capsys.readouterr().err == "stopped by a signal\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_in_another_thread_a_job_leaves_signals_alone():
    def work():
        with one_line("stopped"), Preemption():
            done.append(True)

    done = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def signalled(number):
    """Work during which a signal arrives, and whose error C++ code turns into one of its own."""
    try:
        os.kill(os.getpid(), number)
        time.sleep(5)
    except BaseException as error:
        raise ValueError(f"{type(error).__name__}:") from error


def test_a_signal_that_arrives_as_another_error_is_still_a_signal(capsys):
    with pytest.raises(SystemExit) as stopped, one_line("stopped by a signal"):
        signalled(signal.SIGTERM)
    assert stopped.value.code == 143 and capsys.readouterr().err == "stopped by a signal\n"
    with pytest.raises(KeyboardInterrupt), interruptible():
        signalled(signal.SIGINT)
    for number in (signal.SIGTERM, signal.SIGINT):
        with Preemption() as preemption:
            assert preemption.unless_requested(lambda number=number: signalled(number)) is None
            assert preemption.requested
    with pytest.raises(KeyboardInterrupt), interruptible(), Preemption():
        os.kill(os.getpid(), signal.SIGINT)
        signalled(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_process_that_ignores_ctrl_c_goes_on_doing_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)


@pytest.mark.parametrize("block", [lambda: one_line("stopped"), interruptible])
def test_an_error_without_a_signal_stays_itself(block):
    with pytest.raises(KeyError), block():
        raise KeyError

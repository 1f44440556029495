"""Ctrl-C is seen, wherever it comes."""

import os
import signal
import threading

import pytest

from worker_space_local.cli.interrupt import Interrupt


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Finalized:
    def __del__(self) -> None:
        press()


def test_an_interrupt_is_raised_where_it_comes_and_its_handler_goes_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupt():
        press()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_finalizer_swallows_is_raised_at_the_next_check() -> None:
    with Interrupt() as interrupt:
        interrupt.check()
        Finalized()
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()


def test_in_another_thread_nothing_is_taken_over() -> None:
    before, found = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with Interrupt() as interrupt:
            interrupt.check()
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]

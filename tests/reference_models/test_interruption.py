"""Signals that wait: noted once, handed back always."""

import os
import signal
import threading

import pytest
from otmetrics.reference_models.interruption import deferred_interrupts

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


def test_the_first_one_waits_and_the_second_one_does_not(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with deferred_interrupts(True) as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        assert "once more to stop at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_each_signal_has_its_own_first_one() -> None:
    with deferred_interrupts(True) as interrupted:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # by default it would end this process
        assert interrupted()


@pytest.mark.parametrize("raises", [False, True])
def test_handlers_are_those_of_before(raises: bool) -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
    own = signal.getsignal(signal.SIGTERM)
    try:
        try:
            with deferred_interrupts(True) as interrupted:
                signal.raise_signal(signal.SIGTERM)
                assert interrupted()
                if raises:
                    raise ValueError
        except ValueError:
            assert raises
        assert signal.getsignal(signal.SIGTERM) is own
        assert calls == []
        signal.raise_signal(signal.SIGTERM)
        assert calls == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_interrupts(True) as interrupted:
            signal.raise_signal(signal.SIGINT)
            assert not interrupted()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_where_it_is_not_wanted_or_not_possible_nothing_changes() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_interrupts(False):
        signal.raise_signal(signal.SIGINT)
    found = []

    def elsewhere() -> None:
        with deferred_interrupts(True) as interrupted:
            found.append(interrupted())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [False]

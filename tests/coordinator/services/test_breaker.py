"""The breaker: opens by itself or on request, is probed by one, closes again."""

import threading

import pytest

from coordinator.config import BREAKER_FAILURES, BREAKER_PROBE_S
from coordinator.errors import Busy, StorageError
from coordinator.paths import Home
from coordinator.services.breaker import Breaker, BreakerState
from coordinator.system import failpoints
from coordinator.system.clock import ManualClock

BAD_DISK = StorageError("cannot read x: Input/output error (EIO)", operation="read", path="x", cause="EIO")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def trip(breaker: Breaker) -> None:
    for _ in range(BREAKER_FAILURES):
        breaker.note_failure(BAD_DISK)


def work() -> None:
    """A probe that succeeds."""


def test_it_is_closed_until_failures_come_in_a_row(home: Home, clock: ManualClock) -> None:
    breaker, other = Breaker(home, clock), Breaker(home, clock)
    for _ in range(3):
        for _ in range(BREAKER_FAILURES - 1):
            assert not breaker.note_failure(BAD_DISK)
        breaker.note_success()
    assert other.state() is BreakerState.CLOSED
    trip(breaker)
    status = other.status()
    assert (status.state, status.by_request, status.trips) == (BreakerState.OPEN, False, 1)
    assert "EIO" in str(status.reason)
    with pytest.raises(Busy) as caught:
        other.check()
    assert caught.value.exit_code == 75


def test_one_that_was_opened_on_request_stays_open_until_it_is_closed(home: Home, clock: ManualClock) -> None:
    breaker, other = Breaker(home, clock), Breaker(home, clock)
    breaker.open("maintenance")
    clock.advance(10 * BREAKER_PROBE_S)
    assert not other.probe_if_due(lambda: pytest.fail("nobody asked for a probe"))
    assert other.state() is BreakerState.OPEN
    breaker.close()
    assert other.state() is BreakerState.CLOSED
    other.check()


def test_a_probe_that_succeeds_closes_it(home: Home, clock: ManualClock) -> None:
    breaker = Breaker(home, clock)
    trip(breaker)
    assert not breaker.probe_if_due(lambda: pytest.fail("too early"))
    clock.advance(BREAKER_PROBE_S)
    seen = []
    assert breaker.probe_if_due(lambda: seen.append(Breaker(home, clock).state()))
    assert seen == [BreakerState.HALF_OPEN]
    assert (breaker.state(), breaker.failures) == (BreakerState.CLOSED, 0)


def test_a_probe_that_fails_opens_it_anew(home: Home, clock: ManualClock) -> None:
    breaker = Breaker(home, clock)
    trip(breaker)
    clock.advance(BREAKER_PROBE_S)

    def fail() -> None:
        raise BAD_DISK

    assert not breaker.probe_if_due(fail)
    status = breaker.status()
    assert (status.state, status.trips, status.changed_at) == (BreakerState.OPEN, 2, clock.wall_s())
    assert not breaker.probe_if_due(lambda: pytest.fail("too early"))


def test_the_disk_itself_is_tried(home: Home, clock: ManualClock) -> None:
    breaker = Breaker(home, clock)
    trip(breaker)
    clock.advance(BREAKER_PROBE_S)

    def fail(name: str) -> None:
        if name == "breaker.probe":
            raise OSError(5, "Input/output error")

    with failpoints.observe(fail):
        assert not breaker.probe_if_due(lambda: pytest.fail("the disk failed before"))
    assert breaker.state() is BreakerState.OPEN


def test_of_many_only_one_probes(home: Home, clock: ManualClock) -> None:
    trip(Breaker(home, clock))
    clock.advance(BREAKER_PROBE_S)
    probed, gate, hold = [], threading.Barrier(8), threading.Event()

    def probe() -> None:
        probed.append(1)
        hold.wait(10)

    def look() -> None:
        gate.wait()
        breaker = Breaker(home, clock)
        if not breaker.probe_if_due(probe):
            hold.set() if len(lost) == 6 else lost.append(1)

    lost: list[int] = []
    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert probed == [1]
    assert Breaker(home, clock).state() is BreakerState.CLOSED


def test_a_half_open_one_whose_prober_died_is_probed_by_the_next(home: Home, clock: ManualClock) -> None:
    breaker = Breaker(home, clock)
    trip(breaker)
    clock.advance(BREAKER_PROBE_S)
    with pytest.raises(KeyboardInterrupt):
        breaker.probe_if_due(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert Breaker(home, clock).state() is BreakerState.HALF_OPEN
    clock.advance(BREAKER_PROBE_S)
    assert Breaker(home, clock).probe_if_due(work)


def test_a_wall_clock_set_back_does_not_hold_it_open(home: Home, clock: ManualClock) -> None:
    breaker = Breaker(home, clock)
    trip(breaker)
    clock.wall -= 10 * 365 * 86400
    assert breaker.probe_if_due(work)


def test_where_its_state_cannot_be_written_the_process_is_quiet_alone(home: Home, clock: ManualClock) -> None:
    breaker, other = Breaker(home, clock), Breaker(home, clock)

    def fail(name: str) -> None:
        if name in ("files.open", "breaker.probe"):
            raise OSError(30, "Read-only file system")

    with failpoints.observe(fail):
        trip(breaker)
        assert (breaker.state(), other.state()) == (BreakerState.OPEN, BreakerState.CLOSED)
        clock.advance(BREAKER_PROBE_S)
        assert not breaker.probe_if_due(work)
    clock.advance(BREAKER_PROBE_S)
    assert breaker.probe_if_due(work)
    assert breaker.state() is BreakerState.CLOSED


@pytest.mark.parametrize("content", [b"", b"\0" * 50, b"{}\n", b"open"])
def test_a_damaged_state_counts_as_closed_is_told_and_kept(home: Home, clock: ManualClock, content: bytes) -> None:
    home.breaker.write_bytes(content)
    breaker = Breaker(home, clock)
    assert breaker.state() is BreakerState.CLOSED
    assert "taken as closed" in str(breaker.status().reason)
    breaker.open("x")
    assert Breaker(home, clock).state() is BreakerState.OPEN
    assert home.breaker.with_name("breaker.json.damaged-1").read_bytes() == content

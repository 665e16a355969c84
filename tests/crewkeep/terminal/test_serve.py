"""The keeper's side: what visitors get, and that none of them can hold anything up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from terminal_support import Keeper, Visitor, running

from coordinator.errors import Busy, InvalidInput, Missing, Refused, TimedOut
from coordinator.paths import SessionPaths
from coordinator.system import sockets
from crewkeep import control
from crewkeep.terminal.frames import Kind
from crewkeep.terminal.typist import _ENTER_DELAY_S


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    with running(tmp_path / "session") as keeper:
        yield keeper


def test_what_is_printed_is_kept_and_shown_to_all(keeper: Keeper) -> None:
    first, second = Visitor(keeper, rows=24, columns=80), Visitor(keeper)
    keeper.show(b"one \xf0\x9f")
    keeper.show(b"\x8e\x89 two\r\n")
    for visitor in (first, second):
        assert visitor.wait_shown(b"two") == b"one \xf0\x9f\x8e\x89 two\r\n"
        assert visitor.offset == keeper.output.end_offset
    assert keeper.output.tail(100) == b"one \xf0\x9f\x8e\x89 two\r\n"


def test_keys_reach_the_agent_and_hello_says_who_it_is(keeper: Keeper) -> None:
    visitor = Visitor(keeper, rows=24, columns=80)
    assert visitor.get(Kind.HELLO)[0].words()["name"] == "auth"
    visitor.say(Kind.INPUT, b"ls\r")
    wait_until(lambda: b"".join(keeper.typed) == b"ls\r", what="the keys")


def test_the_window_is_the_smallest_of_the_attached(keeper: Keeper) -> None:
    keeper.line_mode = True
    large, small = Visitor(keeper, rows=50, columns=100), Visitor(keeper, rows=60, columns=80)
    wait_until(lambda: keeper.sizes == [(50, 100), (50, 80)], what="the size")
    Visitor(keeper)  # a copy without a terminal has no say
    small.close()
    wait_until(lambda: keeper.sizes[-1] == (50, 100), what="the size without the small one")
    large.say(Kind.RESIZE, {"rows": 30, "columns": 90})
    wait_until(lambda: keeper.sizes[-1] == (30, 90), what="the new size")
    assert keeper.output.find_size() == (30, 90)


def test_a_full_screen_program_is_nudged_to_draw_anew(keeper: Keeper) -> None:
    first = Visitor(keeper, rows=24, columns=80)
    wait_until(lambda: keeper.sizes == [(24, 80)], what="the first size")
    second = Visitor(keeper, rows=24, columns=80)
    wait_until(lambda: keeper.sizes == [(24, 80), (23, 80), (24, 80)], what="the nudge")
    first.close()
    second.close()


def test_attaching_shows_the_present_screen_only(keeper: Keeper) -> None:
    keeper.show(b"old shell text\r\n" * 10 + b"\x1b[?1049h\x1b[?2004h\x1b[?25lframe 1\x1b[H\x1b[2Jframe 2")
    visitor = Visitor(keeper, rows=24, columns=80)
    shown = visitor.wait_shown(b"frame 2")
    assert b"old shell" not in shown
    assert b"frame 1" not in shown
    assert shown.startswith(b"\x1b[?1049h\x1b[H\x1b[2J")
    assert shown.endswith(b"\x1b[?2004h\x1b[?25l")


def test_the_replay_is_bounded_and_begins_at_a_line(tmp_path: Path, keeper: Keeper) -> None:
    line = b"x" * 97 + b"\r\n"
    for _ in range(100):
        keeper.show(line * 100)
    shown = Visitor(keeper, rows=24, columns=80).wait_shown(line * 10)
    assert len(shown) <= 256 << 10
    assert shown.lstrip(b"\r\n").startswith(line)


def test_one_who_comes_back_reads_on_where_it_left(keeper: Keeper) -> None:
    keeper.show(b"\x1b[2Jabcdef")
    visitor = Visitor(keeper, rows=24, columns=80, from_offset=7)
    assert visitor.wait_shown(b"f") == b"def"
    keeper.show(b"ghi")
    assert visitor.wait_shown(b"i") == b"defghi"


def test_a_copy_that_was_stopped_gets_every_byte_in_the_end(keeper: Keeper) -> None:
    visitor = Visitor(keeper, from_offset=0)
    line = b"0123456789abcdef" * 64
    for number in range(700):
        keeper.show(b"%06d" % number + line)  # nobody reads; every call returns at once
    assert sum(len(one.pending) for one in keeper.call(lambda: list(keeper.server._visitors.values()))) < 300_000
    expected = b"".join(b"%06d" % number + line for number in range(700))
    wait_until(lambda: len(visitor.shown) >= len(expected), what="all output")
    assert visitor.shown == expected


def test_a_terminal_that_lags_far_behind_skips_to_the_present_screen(tmp_path: Path) -> None:
    with running(tmp_path / "session", limit_bytes=8 << 20) as keeper:
        visitor = Visitor(keeper, rows=24, columns=80)
        for _ in range(60):
            keeper.show(b"x" * 50_000)
        keeper.show(b"\x1b[H\x1b[2Jnow")
        visitor.wait_shown(b"now")
        assert len(visitor.shown) < 1_500_000
        assert visitor.get(Kind.NOTICE)[0].words()["skipped_bytes"] > 1 << 20
        keeper.show(b" and later")
        visitor.wait_shown(b" and later")


def test_a_question_goes_to_the_terminal_used_last_and_to_nobody_later(keeper: Keeper) -> None:
    first, second = Visitor(keeper, rows=24, columns=80), Visitor(keeper, rows=24, columns=80)
    first.say(Kind.INPUT, b"a")
    wait_until(lambda: keeper.typed, what="the key")
    keeper.show(b"where\x1b[6n?")
    assert first.wait_shown(b"?") == b"where\x1b[6n?"
    assert second.wait_shown(b"?") == b"where?"
    assert Visitor(keeper, rows=24, columns=80).wait_shown(b"?") == b"where?"
    assert keeper.typed == [b"a"]


def test_without_anybody_the_server_says_where_the_cursor_is(keeper: Keeper) -> None:
    keeper.show(b"\x1b[2J\x1b[3;5Hhi\x1b[")
    keeper.show(b"6n\x1b[c\x1b[5n\x1b[?u")
    assert keeper.typed == [b"\x1b[3;7R", b"\x1b[?62;22c", b"\x1b[0n"]


def test_a_new_incarnation_undoes_what_the_old_one_switched_on(keeper: Keeper) -> None:
    keeper.show(b"\x1b[?1049h\x1b[?1006h\x1b[?2004h")
    visitor = Visitor(keeper, rows=24, columns=80)
    keeper.call(lambda: keeper.server.begin_incarnation(2, "running again"))
    shown = visitor.wait_shown(b"\x1b[?1049l")
    assert b"\x1b[?1006l" in shown
    wait_until(lambda: [one.words()["text"] for one in visitor.get(Kind.NOTICE)] == ["running again"], what="the notice")
    later = Visitor(keeper, rows=24, columns=80)
    assert later.get(Kind.HELLO)[0].words()["epoch"] == 2
    keeper.show(b"fresh")
    assert later.wait_shown(b"fresh") == b"fresh"


def test_an_end_is_told(keeper: Keeper) -> None:
    visitor = Visitor(keeper, rows=24, columns=80)
    keeper.call(lambda: keeper.server.notify_end({"outcome": "done", "exit_code": 0}))
    keeper.call(keeper.server.close)
    wait_until(lambda: visitor.get(Kind.END), what="the end")
    assert visitor.get(Kind.END)[0].words()["exit_code"] == 0


def test_requests_are_answered_now_or_later_or_with_their_error(keeper: Keeper) -> None:
    assert control.request(keeper.paths, "echo", a=1) == {"a": 1}
    threading.Timer(0.05, lambda: keeper.call(lambda: keeper.later.answer({"number": 3}))).start()
    assert control.request(keeper.paths, "later") == {"number": 3}
    with pytest.raises(Busy, match="not now"):
        control.request(keeper.paths, "busy")
    with pytest.raises(InvalidInput, match="nonsense"):
        control.request(keeper.paths, "nonsense")


def test_no_keeper_and_a_silent_keeper_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        control.request(SessionPaths(tmp_path), "status")
    with sockets.listen(tmp_path / "keeper.sock"), pytest.raises(TimedOut):
        control.request(SessionPaths(tmp_path), "status", timeout_s=0.1)


def test_send_types_the_text_and_then_enter(keeper: Keeper) -> None:
    control.request(keeper.paths, "send", text="run the tests")
    assert keeper.typed == [b"run the tests", b"\r"]
    keeper.show(b"\x1b[?2004h")
    control.request(keeper.paths, "send", text="one\ntwo")
    assert keeper.typed[2:] == [b"\x1b[200~one\ntwo\x1b[201~", b"\r"]
    keeper.line_mode = True
    control.request(keeper.paths, "send", text="one\r\ntwo")
    assert keeper.typed[4:] == [b"one\rtwo", b"\r"]


def test_enter_comes_only_after_the_program_has_read_the_text(keeper: Keeper) -> None:
    """One that is busy would find both at once, and take the Enter for a line end of what was pasted."""
    keeper.unread = True
    later: list[Any] = []
    keeper.call(lambda: keeper.server.type_text("one").when_given(later.append))
    watched_s = time.monotonic()
    wait_until(lambda: time.monotonic() - watched_s > 3 * _ENTER_DELAY_S or len(keeper.typed) > 1, what="a while")
    assert keeper.typed == [b"one"]
    keeper.unread, read_s = False, time.monotonic()
    wait_until(lambda: later, what="the Enter")
    assert time.monotonic() - read_s >= _ENTER_DELAY_S
    assert keeper.typed == [b"one", b"\r"]


def test_a_program_that_never_reads_gets_its_enter_all_the_same(keeper: Keeper) -> None:
    keeper.unread = True
    control.request(keeper.paths, "send", timeout_s=10, text="one")
    assert keeper.typed == [b"one", b"\r"]


def test_a_copy_without_a_terminal_is_told_nothing_that_a_terminal_needs(keeper: Keeper) -> None:
    copy, terminal = Visitor(keeper, from_offset=0), Visitor(keeper, from_offset=0, rows=24, columns=80)
    keeper.show(b"first\x1b[?25l")
    for visitor in (copy, terminal):
        visitor.wait_shown(b"first\x1b[?25l")
    keeper.call(lambda: keeper.server.begin_incarnation(2))
    keeper.show(b"second")
    assert copy.wait_shown(b"second") == b"first\x1b[?25lsecond"
    assert b"\x1b[?25h" in terminal.wait_shown(b"second")
    late = Visitor(keeper, from_offset=0)
    assert late.wait_shown(b"second") == b"first\x1b[?25lsecond"
    for visitor in (copy, terminal, late):
        visitor.close()


def test_texts_of_several_senders_never_mix(keeper: Keeper) -> None:
    threads = [
        threading.Thread(target=control.request, args=(keeper.paths, "send", 5.0), kwargs={"text": f"text {number}"})
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keeper.typed[1::2] == [b"\r"] * 4
    assert sorted(keeper.typed[0::2]) == [b"text 0", b"text 1", b"text 2", b"text 3"]


def test_nothing_is_typed_into_a_permission_prompt(keeper: Keeper) -> None:
    keeper.asking = True
    with pytest.raises(Refused, match="permission"):
        control.request(keeper.paths, "send", text="yes")
    assert keeper.typed == []


def test_enter_is_not_typed_into_a_prompt_that_opened_meanwhile(keeper: Keeper) -> None:
    def type_and_ask() -> Any:
        keeper.call(lambda: None)
        wait_until(lambda: keeper.typed, what="the text")
        keeper.asking = True

    watcher = threading.Thread(target=type_and_ask)
    watcher.start()
    with pytest.raises(Refused, match="Enter was not"):
        control.request(keeper.paths, "send", text="yes")
    watcher.join()
    assert keeper.typed == [b"yes"]


def test_an_enter_never_goes_to_the_next_agent(keeper: Keeper) -> None:
    def restart() -> None:
        wait_until(lambda: keeper.typed, what="the text")
        keeper.call(lambda: keeper.server.begin_incarnation(2))

    watcher = threading.Thread(target=restart)
    watcher.start()
    with pytest.raises(Busy, match="ended before"):
        control.request(keeper.paths, "send", text="yes")
    watcher.join()
    control.request(keeper.paths, "send", text="again")
    assert keeper.typed == [b"yes", b"again", b"\r"]


def test_while_no_agent_runs_nothing_is_taken_for_typed(keeper: Keeper) -> None:
    keeper.is_running = False
    with pytest.raises(Busy, match="no agent"):
        control.request(keeper.paths, "send", text="yes")
    assert keeper.typed == []


@pytest.mark.parametrize("text", ["\x03", "a\x1b[201~b", None, "\ud800", "x" * (1 << 21), "x" * (5 << 20), "\x9b31m"])
def test_what_is_no_plain_text_is_not_typed(keeper: Keeper, text: object) -> None:
    with pytest.raises(InvalidInput):
        control.request(keeper.paths, "send", text=text)
    assert keeper.typed == []


def test_a_line_that_the_kernel_would_cut_is_refused(keeper: Keeper) -> None:
    keeper.line_mode = True
    with pytest.raises(InvalidInput, match="line"):
        control.request(keeper.paths, "send", text="x" * 5000)


@pytest.mark.parametrize("noise", [b"Q\xff\xff\xff\xff", b"Q\x00\x00\x00\x02[]", b"T\x00\x00\x00\x01{", b"\x00" * 50])
def test_a_visitor_that_talks_nonsense_harms_nobody(keeper: Keeper, noise: bytes) -> None:
    connection = sockets.connect(keeper.paths.socket, 5)
    connection.sendall(noise)
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(5)
    assert connection.recv(10) == b""
    connection.close()
    assert control.request(keeper.paths, "echo") == {}


def test_paused_input_waits_and_then_arrives(keeper: Keeper) -> None:
    visitor = Visitor(keeper, rows=24, columns=80)
    keeper.call(lambda: keeper.server.pause_input(True))
    visitor.say(Kind.INPUT, b"later")
    keeper.show(b"output goes on")
    visitor.wait_shown(b"goes on")
    assert keeper.typed == []
    keeper.call(lambda: keeper.server.pause_input(False))
    wait_until(lambda: keeper.typed == [b"later"], what="the keys")


def test_an_idle_server_with_visitors_does_not_wake_up(keeper: Keeper) -> None:
    visitors = [Visitor(keeper, rows=24, columns=80), Visitor(keeper)]
    keeper.show(b"hello")
    for visitor in visitors:
        visitor.wait_shown(b"hello")
    keeper.call(lambda: None)
    begin, cpu = time.monotonic(), time.process_time()
    wait_until(lambda: time.monotonic() > begin + 0.3, what="some idle time", every_s=0.1)
    assert time.process_time() - cpu < 0.1

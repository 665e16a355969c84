"""The peers of the benchmark do what their figures claim: compare and swap, with versions, for all to see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import skip_or_fail

from benchmarks.context.peers import Peer, find_peers, list_names


@pytest.fixture(params=list_names())
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    found, left_out = find_peers([request.param])
    if request.param not in found:
        skip_or_fail(f"{left_out[request.param]}; `make test-needs` installs it where the machine allows")
    with found[request.param].host(tmp_path) as place:
        store = found[request.param](place)
        yield store
        store.close()


def test_a_swap_succeeds_at_the_version_that_is_there_and_at_no_other(peer: Peer) -> None:
    assert peer.read("key/0") == (None, 0)
    assert not peer.swap("key/0", {"number": 7}, 3)
    assert peer.swap("key/0", {"number": 1}, 0)
    assert not peer.swap("key/0", {"number": 2}, 0)
    assert peer.read("key/0") == ({"number": 1}, 1)
    assert peer.swap("key/0", {"number": 2}, 1)
    assert not peer.swap("key/0", {"number": 3}, 1)
    assert peer.read("key/0") == ({"number": 2}, 2)


def test_keys_are_apart(peer: Peer) -> None:
    assert peer.swap("key/0", {"number": 1}, 0)
    assert peer.read("key/1") == (None, 0)


def test_an_update_that_meets_another_writer_is_done_again_on_what_is_there(peer: Peer) -> None:
    assert peer.swap("key/0", {"number": 1}, 0)
    met = []

    def change(value: dict[str, int]) -> dict[str, int]:
        if not met:
            assert peer.swap("key/0", {"number": 10}, 1)
        met.append(value["number"])
        return {"number": value["number"] + 1}

    assert peer.update("key/0", change) == 1
    assert met == [1, 10]
    assert peer.read("key/0") == ({"number": 11}, 3)


def test_what_is_filled_in_is_at_version_1(peer: Peer) -> None:
    peer.fill((f"key/{number}", {"number": number}) for number in range(5))
    assert [peer.read(f"key/{number}") for number in range(5)] == [({"number": number}, 1) for number in range(5)]


def test_a_follower_is_shown_what_came_after_it_began(peer: Peer) -> None:
    assert peer.swap("key/0", {"number": 1}, 0)
    values = peer.follow("key/0")
    assert peer.swap("key/0", {"number": 2}, 1)
    assert next(values) == {"number": 2}


def test_every_peer_says_what_it_is_and_what_it_does_not_promise(peer: Peer) -> None:
    assert all((peer.version(), peer.configured, peer.notices, peer.lacks))

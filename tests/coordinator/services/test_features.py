"""Features: turned one by one, damaged ones taken for what touches least, and said so."""

import pytest

from coordinator import sealed
from coordinator.errors import FormatTooNew, InvalidInput
from coordinator.paths import Home
from coordinator.services.features import FEATURES_FORMAT, FEATURES_KIND, FeatureLevels, Features, Recovery, Sync


def test_everything_is_on_where_nothing_was_said(home: Home) -> None:
    assert Features(home).read() == FeatureLevels(sync=Sync.ON, recovery=Recovery.ON, note="")


def test_each_is_turned_alone_and_seen_by_who_read_before(home: Home) -> None:
    reader, setter = Features(home), Features(home)
    reader.read()
    setter.set("recovery", "observe")
    assert reader.read() == FeatureLevels(sync=Sync.ON, recovery=Recovery.OBSERVE)
    setter.set("sync", "off")
    assert reader.read() == FeatureLevels(sync=Sync.OFF, recovery=Recovery.OBSERVE)
    setter.set("recovery", "off")
    setter.set("sync", "on")
    assert reader.read() == FeatureLevels(sync=Sync.ON, recovery=Recovery.OFF)


@pytest.mark.parametrize(("feature", "level"), [("sync", "observe"), ("recovery", ""), ("colour", "on"), ("recovery", "ON")])
def test_what_there_is_not_is_refused(home: Home, feature: str, level: str) -> None:
    with pytest.raises(InvalidInput):
        Features(home).set(feature, level)
    assert not home.features.exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 50, b"{}\n", b"on", b'{"kind":"features","format":1,"digest":"","body":{}}\n'])
def test_a_damaged_file_means_observe_and_is_told_and_kept(home: Home, content: bytes) -> None:
    home.features.write_bytes(content)
    levels = Features(home).read()
    assert (levels.sync, levels.recovery) == (Sync.ON, Recovery.OBSERVE)
    assert str(home.features) in levels.note
    assert Features(home).set("recovery", "on") == FeatureLevels()
    assert home.features.with_name("features.json.damaged-1").read_bytes() == content


def test_an_unknown_level_means_observe_and_is_told(home: Home) -> None:
    sealed.write_sealed(home.features, FEATURES_KIND, FEATURES_FORMAT, {"recovery": "eager", "sync": 7, "mood": "good"})
    levels = Features(home).read()
    assert (levels.sync, levels.recovery) == (Sync.ON, Recovery.OBSERVE)
    assert "eager" in levels.note
    assert "sync" in levels.note
    Features(home).set("sync", "off")
    assert sealed.read_sealed(home.features, FEATURES_KIND, FEATURES_FORMAT)["mood"] == "good"


def test_a_newer_format_is_not_overwritten(home: Home) -> None:
    sealed.write_sealed(home.features, FEATURES_KIND, FEATURES_FORMAT + 1, {"recovery": "off"})
    before = home.features.read_bytes()
    assert Features(home).read().recovery is Recovery.OBSERVE
    with pytest.raises(FormatTooNew):
        Features(home).set("recovery", "on")
    assert home.features.read_bytes() == before

"""Where a key leads, and what this process knows of it. What is known is compared with the disk each time it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.context.codec import Placed, Record
from coordinator.context.generation import Generation, Standing
from coordinator.context.model import WriterLike
from coordinator.context.table import ADDRESS, SLOT, Lookup, Slot, Table, make_tag
from coordinator.context.watch import list_words

if TYPE_CHECKING:
    from coordinator.context.shard import Shard

#: A record up to this size is kept at hand, a larger one read again: to write it takes longer. Arbitrary.
KEPT_BYTES = 4096


class Route:
    """One key of an open context, for one writer."""

    __slots__ = (
        "epoch",
        "key",
        "name",
        "newest",
        "place",
        "published",
        "session",
        "shard",
        "shown",
        "sizes",
        "slot",
        "standing",
        "table",
        "tag",
        "texts",
        "words",
        "writer",
    )

    def __init__(self, key: str, shard: Shard, writer: WriterLike | None) -> None:
        self.key, self.shard, self.writer = key, shard, writer
        #: The key's hash in the shard's table, and the numbers of the bell that its commits ring.
        self.tag, self.words = make_tag(key), tuple(list_words(key))
        self.session, self.name, self.epoch = (writer.session, writer.name, writer.epoch) if writer is not None else ("", "", 0)
        texts = [text.encode("utf-8") for text in (key, self.session, self.name)]
        #: What each of its records says in text, and the lengths of key, session and name in it.
        self.texts, self.sizes = b"".join(texts), tuple(map(len, texts))
        #: Its slot in ``table`` as it was found last, at ``place``, the record that it led to, and what the writer was
        #: found to be permitted by.
        self.table: Table | None = None
        self.place, self.slot = 0, b""
        self.newest: Placed | None = None
        self.standing: Standing | None = None
        #: The published state, as it stands in the page, of which ``shown`` is what the key has; ``None``: nothing.
        self.published = b""
        self.shown: Record | None = None

    def learn(self, table: Lookup, slot: Slot, newest: Placed) -> None:
        """Keep in mind where the key's slot is and to what it leads, unless that is too large to keep."""
        self.table = None
        if newest.length <= KEPT_BYTES and isinstance(table, Table):
            self.place, self.slot, self.newest = slot.position, SLOT.pack(slot.word, self.tag), newest
            self.table = table

    def find_written(self, generation: Generation) -> Placed | None:
        """Return what the key's slot leads to by now, durable or not; ``None`` if that takes a longer look."""
        table = self.table
        if table is None or table is not generation.table:
            return None
        found = table.read_slot(self.place)
        if found == self.slot:
            return self.newest
        word, tag = SLOT.unpack(found)
        newest = generation.find(word & ADDRESS) if tag == self.tag else None
        if newest is None or newest.record.key != self.key:
            return None
        self.learn(table, Slot(self.place, word), newest)
        return newest

    def show(self, published: bytes, shown: Record | None) -> None:
        """Keep in mind what the key has as of that published state, unless that is too large to keep."""
        if shown is None or len(shown.value) <= KEPT_BYTES:
            self.published, self.shown = published, shown

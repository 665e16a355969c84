"""Where a key leads, and what this process knows of it. What is known is compared with the disk each time it is used."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from coordinator.context.codec import Placed, Record
from coordinator.context.control import STATE_BYTES, proves
from coordinator.context.generation import Generation, Standing
from coordinator.context.model import WriterLike
from coordinator.context.table import ADDRESS, SLOT, Lookup, Slot, Table, make_tag
from coordinator.context.watch import list_words

if TYPE_CHECKING:
    from coordinator.context.shard import Shard

#: A record up to this size is kept at hand, a larger one read again: to write it takes longer. Arbitrary.
KEPT_BYTES = 4096
#: No state: longer than what is read of the page, however much of that is there.
_NEVER = bytes(STATE_BYTES + 1)
#: Of a state in the page: where the record ends.
_END = struct.Struct("<16xQ")


class Known(NamedTuple):
    """A key's slot as it was found last, and the record that it led to."""

    table: Table
    place: int
    slot: bytes
    newest: Placed


class Route:
    """One key of an open context, for one writer. Any thread may use it: what it knows is replaced as a whole."""

    __slots__ = (
        "epoch",
        "key",
        "known",
        "mark",
        "name",
        "session",
        "shard",
        "shown",
        "sizes",
        "standing",
        "tag",
        "texts",
        "words",
        "writer",
    )

    def __init__(self, key: str, shard: Shard, writer: WriterLike | None) -> None:
        self.key, self.shard, self.writer = key, shard, writer
        #: The key's hash in the shard's table, and the numbers of the bell that its commits ring.
        self.tag, self.words = make_tag(key), list_words(key)
        #: What tells others that it is this key somebody waits for.
        self.mark = self.tag.to_bytes(8, "little").rstrip(b"\0")
        self.session, self.name, self.epoch = (writer.session, writer.name, writer.epoch) if writer is not None else ("", "", 0)
        texts = [text.encode("utf-8") for text in (key, self.session, self.name)]
        #: What each of its records says in text, and the lengths of key, session and name in it.
        self.texts, self.sizes = b"".join(texts), tuple(map(len, texts))
        self.known: Known | None = None
        #: What the writer was found to be permitted by.
        self.standing: Standing | None = None
        #: A published state, as it stands in the page, and what the key has as of that; ``None``: nothing.
        self.shown: tuple[bytes, Record | None] = (_NEVER, None)

    def find_shown(self, published: bytes) -> Record | None:
        """Return what the key has as of a published state, as it stands in the page; ``None`` if that takes a longer look.

        It is the record that was known before, if the key's slot still leads to it and it is published. Raises ``OSError``.
        """
        known, generation = self.known, self.shard.generation
        if known is None or generation is None or published[:16] != generation.identity_bytes:
            return None
        table, place, slot, newest = known
        record, offset, length, _, _, _, _ = newest
        if table is not generation.table or os.pread(table.fd, SLOT.size, place) != slot:
            return None
        if not proves(published) or offset + length > _END.unpack_from(published)[0]:
            return None
        self.shown = (published, record)
        return record

    def learn(self, table: Lookup, slot: Slot, newest: Placed) -> Known | None:
        """Keep in mind where the key's slot is and to what it leads, unless that is too large to keep."""
        known = Known(table, slot.position, SLOT.pack(slot.word, self.tag), newest) if isinstance(table, Table) else None
        self.known = known if newest.length <= KEPT_BYTES else None
        return known

    def find_written(self, generation: Generation) -> Known | None:
        """Return what the key's slot leads to by now, durable or not; ``None`` if that takes a longer look."""
        known = self.known
        if known is None or known.table is not generation.table:
            return None
        slot = known.table.read_slot(known.place)
        if slot == known.slot:
            return known
        word, tag = SLOT.unpack(slot)
        newest = generation.find(word & ADDRESS) if tag == self.tag else None
        if newest is None or newest.record.key != self.key:
            return None
        return self.learn(known.table, Slot(known.place, word), newest)

    def show(self, published: bytes, record: Record | None) -> None:
        """Keep in mind what the key has as of that published state, unless that is too large to keep."""
        if record is None or len(record.value) <= KEPT_BYTES:
            self.shown = (published, record)

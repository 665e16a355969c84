"""A text as the keys that type it into a program's terminal."""

from __future__ import annotations

import re
import sys

from coordinator.errors import InvalidInput

ENTER = b"\r"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PASTE_START, _PASTE_END = b"\x1b[200~", b"\x1b[201~"
#: A kernel's line editing drops what is beyond this many bytes of one line.
_LINE_LIMIT_BYTES = 1023 if sys.platform == "darwin" else 4095
TEXT_LIMIT_BYTES = 1 << 20


def make_keys(text: object, *, bracketed: bool, line_mode: bool) -> bytes:
    """Return the bytes that type ``text``, without the Enter behind it.

    ``bracketed``: the program asked that pasted text be marked, so that its line ends are not taken for Enter.
    ``line_mode``: the program reads whole lines. Raises ``InvalidInput`` for what cannot be typed whole: control
    characters (they are keys, not text), and lines that the kernel would cut.
    """
    if not isinstance(text, str):
        raise InvalidInput("there is no text to type", hint="crewkeep send SESSION TEXT")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if found := _CONTROL.search(text):
        raise InvalidInput(
            f"the text holds a control character ({found[0]!r} at {found.start()}); only plain text is typed",
            hint="press keys yourself: crewkeep attach SESSION",
        )
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput("the text is not Unicode that can be encoded", hint="give UTF-8") from error
    if len(data) > TEXT_LIMIT_BYTES:
        raise InvalidInput(
            f"the text has {len(data)} bytes, more than {TEXT_LIMIT_BYTES}", hint="put it into a file and send its path"
        )
    if line_mode and (longest := max(map(len, data.split(b"\n")))) >= _LINE_LIMIT_BYTES:
        raise InvalidInput(
            f"a line of {longest} bytes is more than the agent's terminal takes ({_LINE_LIMIT_BYTES - 1})",
            hint="put it into a file and send its path",
        )
    if bracketed and "\n" in text and not line_mode:  # one line may be a command (`:q`), which pasted would be mere text
        return _PASTE_START + data + _PASTE_END
    return data.replace(b"\n", ENTER)

"""The digests in use, from the interpreter's own code rather than from OpenSSL where that can be had.

``hashlib`` loads the whole of OpenSSL: 3.6 MB in every keeper, measured, for records of a few hundred bytes. Slower on large
files, which are copied at the disk's speed anyway.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

__all__ = ["blake2b", "sha256"]

if TYPE_CHECKING:
    from hashlib import blake2b, sha256
else:
    try:
        from _blake2 import blake2b

        if sys.version_info >= (3, 12):
            from _sha2 import sha256
        else:
            from _sha256 import sha256
    except ImportError:  # an interpreter that was built without them
        from hashlib import blake2b, sha256

"""The Merkle tree hash of RFC 6962, section 2.1, with SHA-256.

One root stands for any number of leaves in their order: change, drop or add one, and it is another
root.
"""

import hashlib
from collections.abc import Iterable


def root(leaves: Iterable[bytes]) -> bytes:
    """Return the root over the leaves; of no leaves, the hash of nothing."""
    # The subtrees on the left that are complete, largest first: (size, hash).
    complete: list[tuple[int, bytes]] = []
    for leaf in leaves:
        size, node = 1, hashlib.sha256(b"\x00" + leaf).digest()
        while complete and complete[-1][0] == size:
            _, left = complete.pop()
            size, node = 2 * size, hashlib.sha256(b"\x01" + left + node).digest()
        complete.append((size, node))
    if not complete:
        return hashlib.sha256(b"").digest()
    _, node = complete.pop()
    while complete:
        _, left = complete.pop()
        node = hashlib.sha256(b"\x01" + left + node).digest()
    return node

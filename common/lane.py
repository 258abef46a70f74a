"""The lane: what relay and coordinator agree on beside lane.proto. The times here notice; only the plan's patience gives up."""

import zlib
from typing import Final

from common.errors import BadEnvelope
from common.wire import BLOB_BYTES_MOST, HEAD_BYTES_MOST

NAME: Final = "motet-lane"  # in the coordinator's certificate, and what a relay asks for: the door tells lane from fleet by it
PIECE_BYTES: Final = 1 << 16  # two seconds of a link of 250 kbit/s: a slow link stays audibly alive
MESSAGE_BYTES_MOST: Final = 1 << 20  # of one frame: junk is dropped before it is read
ENVELOPE_BYTES_MOST: Final = BLOB_BYTES_MOST + HEAD_BYTES_MOST + 128
BEAT_S: Final = 1.0  # who has nothing to say says so
SILENCE_S: Final = 8.0  # a link that is silent for so long is cut, and made again
VAULT_AWAY: Final = "E-VAULT"  # the code of a relay whose vault does not answer
SAVING_LEAST: Final = 0.9  # a blob is sent deflated when its beginning shrinks to this


def pays(sample: bytes) -> bool:
    """Tell whether deflating is worth it, by the beginning of a blob; random bytes, as masked vectors are, never pay."""
    return len(sample) >= PIECE_BYTES // 2 and len(zlib.compress(sample, 1)) <= SAVING_LEAST * len(sample)


def deflate(data: bytes) -> bytes:
    """Return `data` deflated, quickly."""
    return zlib.compress(data, 1)


def inflate(data: bytes) -> bytes:
    """Undo `deflate`; raises BadEnvelope on anything else, and on more than one piece's worth."""
    try:
        engine = zlib.decompressobj()
        plain = engine.decompress(data, PIECE_BYTES + 1)
    except zlib.error:
        raise BadEnvelope("A piece cannot be inflated.", action="Send it again.") from None
    if len(plain) > PIECE_BYTES or engine.unconsumed_tail or engine.unused_data or not engine.eof:
        raise BadEnvelope("A piece inflates to too much.", action="Send it again.")
    return plain

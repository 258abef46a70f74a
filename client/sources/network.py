"""What both sides of a DICOM association agree on here: kinds of objects, transfer syntaxes, TLS and limits."""

import logging
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pynetdicom.ae import ApplicationEntity
from typing_extensions import override

from common.errors import ConfigError

VERIFICATION: Final = "1.2.840.10008.1.1"
FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"  # Study Root, PS3.4 C.6.2
MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
KINDS: Final = (
    "1.2.840.10008.5.1.4.1.1.2",  # CT Image
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image
    "1.2.840.10008.5.1.4.1.1.4",  # MR Image
    "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR Image
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, for processing
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.481.3",  # RT Structure Set
)
SYNTAXES: Final = (  # what is read without loss; a PACS converts the rest, or says that it cannot
    "1.2.840.10008.1.2.1",  # explicit little endian
    "1.2.840.10008.1.2",  # implicit little endian
    "1.2.840.10008.1.2.1.99",  # deflated
    "1.2.840.10008.1.2.2",  # explicit big endian
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
)
TITLE: Final = re.compile(r"[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?\Z")  # PS3.5 6.2, AE: 16 characters, no backslash
HANDSHAKE_S: Final = 10.0
TIMEOUT_S: Final = 60.0
ASSOCIATIONS_MOST: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Our certificate with its key, and the authority that signed the other side's; both sides must show one."""

    certificate: Path
    key: Path
    ca: Path


class _Impatient(ssl.SSLContext):
    """Gives up a handshake after ten seconds: it is made in the thread that accepts."""

    @override
    def wrap_socket(self, sock: Any, *args: Any, **options: Any) -> ssl.SSLSocket:
        sock.settimeout(HANDSHAKE_S)
        wrapped = super().wrap_socket(sock, *args, **options)
        wrapped.settimeout(None)
        return wrapped


def context(tls: Tls, *, serving: bool) -> ssl.SSLContext:
    """Return mutual TLS 1.2 or newer (PS3.15 B.12); raises ConfigError where a file cannot be used."""
    made = _Impatient(ssl.PROTOCOL_TLS_SERVER if serving else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.verify_mode = ssl.CERT_REQUIRED
    which = "--certificate with --key"
    try:
        made.load_cert_chain(tls.certificate, tls.key)
        which = "--ca"
        made.load_verify_locations(tls.ca)
    except (OSError, ssl.SSLError) as error:
        why = "no matching PEM" if isinstance(error, ssl.SSLError) else str(error.strerror)
        raise ConfigError(
            f"{which} cannot be used ({why}).", action="Check the path, its permissions and what is in it."
        ) from None
    return made


def entity(title: str) -> ApplicationEntity:
    """Return an application entity that waits for nobody for ever and logs nothing of what it hears."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    made = ApplicationEntity(checked_title(title))
    made.acse_timeout = made.dimse_timeout = made.network_timeout = TIMEOUT_S
    made.connection_timeout = HANDSHAKE_S
    made.maximum_associations = ASSOCIATIONS_MOST
    return made


def checked_title(title: str) -> str:
    """Return an AE title; raises ConfigError for one that the standard does not allow."""
    if not TITLE.match(title):
        raise ConfigError("That is no AE title.", action="1 to 16 characters, no backslash, no blank at an end.")
    return title

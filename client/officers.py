"""motet-hospital officer, sign-policy: how two officers of a hospital raise a cap that site.toml already states."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from client import config
from client.config import Home, Site
from client.ledger import Ledger
from client.origin import ledger_origin
from common import canonical, files
from common.crypto import keys
from common.errors import ConfigError
from common.ledger import officers

NAME = "policy-signatures.json"
Folder = Annotated[Path, typer.Option("--home", help="The hospital's folder.")]


def signatures(home: Home) -> Mapping[str, str]:
    """Return the officers' signatures that lie beside the approvals, by public key; none where there is no file."""
    path = home.approved / NAME
    try:
        plain = json.loads(path.read_bytes())
        return {str(key): str(text) for key, text in plain.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError):
        raise ConfigError(f"{path} is damaged.", action="Remove it, and let two officers sign again.") from None


def check(home: Home, site: Site, *, ledger: Ledger) -> None:
    """Raise OutsidePolicy where the vault answers nothing: site.toml raises a cap, or names others, and two have not signed."""
    before, entry = ledger.policy()
    if before:
        officers.check(before, _stated(site), origin=ledger_origin(site.name), entry=entry, signatures=signatures(home))


def officer(
    key: Annotated[Path, typer.Argument(help="File to write the officer's private key to; keep it off this machine.")],
) -> None:
    """Make an officer's key and print the public half, for `officers` in site.toml."""
    made = Ed25519PrivateKey.generate()
    files.write_new(key, keys.private_pem(made), private=True)
    Console(highlight=False).print(made.public_key().public_bytes_raw().hex(), soft_wrap=True)


def sign_policy(
    home: Folder, key: Annotated[Path, typer.Option(help="The officer's private key, as `officer` wrote it.")]
) -> None:
    """Sign the step from the ledger's policy to the one that site.toml now states; it counts once two officers have."""
    made = Home(home)
    site = config.read_site(made)
    after = _stated(site)
    origin = ledger_origin(site.name)
    with Ledger.look(made.ledger, origin=origin, key=config.ledger_key(made), clock=lambda: int(time.time())) as ledger:
        before, entry = ledger.policy()
    wanted = officers.must_sign(before, after)
    public, signature = officers.sign(before, after, origin=origin, entry=entry, key=keys.load_private_pem(files.read(key)))
    if public not in wanted:
        raise ConfigError(
            "This policy needs no signature of this officer.",
            action="See `officers` in the ledger's policy (`motet-audit show`), and state the new cap in site.toml first.",
        )
    both = {**signatures(made), public: signature}
    held = officers.held(before, after, origin=origin, entry=entry, signatures=both)  # those of other steps are of no use
    files.write(made.approved / NAME, json.dumps(held, sort_keys=True).encode())
    said = f"Signed; {len(held)} of {officers.SIGNERS} officers have signed this policy."
    Console(highlight=False).print(said, soft_wrap=True)


def _stated(site: Site) -> dict[str, Any]:
    """Return the policy of site.toml as the ledger would hold it."""
    stated: dict[str, Any] = canonical.decode(canonical.encode(site.policy.snapshot()))
    return stated

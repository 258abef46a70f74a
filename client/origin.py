"""The name under which a hospital's ledger signs its checkpoints."""


def ledger_origin(name: str) -> str:
    """Return the C2SP origin of the hospital called `name`."""
    return f"motet.example/ledger/{name}"

"""What the coordinator's commands share: the option for the folder, the one for JSON, where they print."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

HOME_VARIABLE = "MOTET_COORDINATOR_HOME"
Folder = Annotated[Path, typer.Option("--home", help="The coordinator's folder.", envvar=HOME_VARIABLE)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
out = Console(highlight=False)
beside = Console(highlight=False, stderr=True)  # what is told while stdout is kept for JSON

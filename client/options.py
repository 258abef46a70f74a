"""Options that several of the hospital's commands have, with one name and one help text."""

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Option("--home", help="The hospital's folder.", envvar="MOTET_HOSPITAL_HOME")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of words or tables.")]

"""A wall clock of its own for the processes of one place, stepped while they run; the machine's clock is never touched."""

import shutil
import struct
import subprocess
from pathlib import Path

from common.errors import ConfigError

SOURCE = Path(__file__).with_name("clock.c")


class Clock:
    """The shift of one place's wall clock, in a file that the preloaded library reads at every call."""

    def __init__(self, folder: Path) -> None:
        """Compile the library into `folder`; raises ConfigError where there is no C compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            raise ConfigError("A stepped clock needs a C compiler.", action="Install cc, or leave that drill out.")
        self._shift, library = folder / "clock", folder / "clock.so"
        self._shift.write_bytes(bytes(8))
        done = subprocess.run(
            [compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], capture_output=True, check=False
        )
        if done.returncode != 0:
            raise ConfigError("The clock's library could not be compiled.", action="Is the C compiler complete?")
        self.environment = {"LD_PRELOAD": str(library.absolute()), "MOTET_DRILL_CLOCK": str(self._shift.absolute())}

    def step(self, *, shift_s: int) -> None:
        """Make the clock differ from the machine's by so many seconds, from now on."""
        with self._shift.open("r+b") as file:
            file.write(struct.pack("=q", shift_s))

"""The command line: one file per command; `entry` is the way in, `options` what commands share.

A new command is a file with a function of its name and `EXAMPLES`, and one line in `entry.COMMANDS`.
"""

from .entry import app as app
from .entry import main as main

"""Whether a file is one's own: the zip files of Stable-Baselines3 hold pickles, which run code when they are opened."""

import os
import sys
from pathlib import Path

_warned = False


def warn_of_foreign_pickles(path: Path) -> None:
    """
    Say once in a process that a file about to be unpickled belongs to another user.

    :param path: the file, or a directory of such files
    """
    global _warned
    if _warned or not hasattr(os, "geteuid") or not path.exists() or path.stat().st_uid == os.geteuid():
        return
    _warned = True
    print(
        f"warning: {path} belongs to another user. A zip of Stable-Baselines3 holds pickles, which run code when they "
        "are opened: go on only if you trust where it comes from. The safe form is a safetensors file "
        "(experiments/export.py --to, flowrl.export.load_policy)",
        file=sys.stderr,
    )

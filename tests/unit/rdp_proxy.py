"""`rdp-proxy` as people run it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def rdp_proxy(
    *words: str, cwd: Path | None = None, stdin: str = "", **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as people do."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "proxy", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path} | environ,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

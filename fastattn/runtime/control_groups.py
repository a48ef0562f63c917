"""Finds the control groups of this process, which hold a container's limits."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePosixPath

_ROOT, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def control_groups(controller: str, root: Path = _ROOT, own: Path = _OWN) -> list[Path]:
    """Return the folders of a controller ("cpu", "memory") of version 2 or 1, from this process's group up to the root."""
    found: list[Path] = []
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text("utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            top = root / controller if controllers else root
            relative = PurePosixPath(name.lstrip("/"))
            found += [top / part for part in (relative, *relative.parents)]
    return found

"""A CPU limit by a real cgroup, as in a container. Needs root and writable cgroups."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PERIOD = 100_000  # microseconds, as in Kubernetes


@contextlib.contextmanager
def cgroup(cpus: float) -> Iterator[Path]:
    """Yields a file; a process that writes 0 to it is limited. Raises OSError if no cgroup can be created."""
    version2 = (CGROUPS / "cgroup.controllers").exists()
    folder = (CGROUPS if version2 else CGROUPS / "cpu") / f"classifier-test-{os.getpid()}"
    quota = int(cpus * PERIOD)
    if version2:
        (CGROUPS / "cgroup.subtree_control").write_text("+cpu")
    folder.mkdir()
    try:
        if version2:
            (folder / "cpu.max").write_text(f"{quota} {PERIOD}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD))
            (folder / "cpu.cfs_quota_us").write_text(str(quota))
        yield folder / "cgroup.procs"
    finally:
        folder.rmdir()

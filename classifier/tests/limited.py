"""A CPU limit made by a real cgroup, as a container has one; for root on a machine whose cgroups may be written."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PERIOD = 100_000  # microseconds, Kubernetes' own


@contextlib.contextmanager
def cgroup(cpus: float) -> Iterator[Path]:
    """The file that a process writes 0 into to be limited. OSError where no cgroup can be made."""
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

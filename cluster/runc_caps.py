"""A runc that never asks for a capability which this machine doesn't have.

``docker run --privileged`` asks for all capabilities. Where the bounding set
of the engine lacks one (CAP_SYS_RESOURCE on many sandboxed hosts), runc fails
with "unable to apply caps: operation not permitted". This wrapper takes the
missing ones out of what is asked for, and then becomes runc; it never adds
any. Standalone: the engine runs it as a program, without this package.

The real runc is the link ``runc.real`` beside it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Order is the kernel's numbering (include/uapi/linux/capability.h).
_KERNEL_ORDER = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
NAMES = tuple(f"CAP_{name}" for name in _KERNEL_ORDER.split())


def bounding_set(status: str) -> set[str]:
    """The capabilities in ``CapBnd`` of a /proc/PID/status text."""
    for line in status.splitlines():
        if line.startswith("CapBnd:"):
            mask = int(line.split()[1], 16)
            return {name for number, name in enumerate(NAMES) if mask >> number & 1}
    return set(NAMES)


def filtered(process: Mapping[str, object], allowed: set[str]) -> dict[str, object]:
    """An OCI process object whose capability lists name only what is allowed."""
    capabilities = process.get("capabilities")
    if not isinstance(capabilities, dict):
        return dict(process)
    kept = {
        kind: [name for name in names if name in allowed] if isinstance(names, list) else names
        for kind, names in capabilities.items()
    }
    return {**process, "capabilities": kept}


def target(argv: list[str]) -> tuple[str, Path] | None:
    """Which file says what is asked for: (``bundle`` or ``process``, its path)."""
    commands = [word for word in argv if word in {"create", "run", "restore", "exec"}]
    if not commands:
        return None
    if commands[0] == "exec":
        file = option(argv, "--process", "-p")
        return ("process", Path(file)) if file else None
    return "bundle", Path(option(argv, "--bundle", "-b") or ".") / "config.json"


def option(argv: list[str], *names: str) -> str | None:
    """The value of an option, as ``--name value`` or ``--name=value``."""
    for position, word in enumerate(argv):
        if word in names and position + 1 < len(argv):
            return argv[position + 1]
        for name in names:
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
    return None


def narrow(file: Path, kind: str, allowed: set[str]) -> None:
    """Rewrite the file in place: runc may hold it open by its inode."""
    asked = json.loads(file.read_text())
    if kind == "process":
        asked = filtered(asked, allowed)
    elif isinstance(asked.get("process"), dict):
        asked["process"] = filtered(asked["process"], allowed)
    file.write_text(json.dumps(asked))


def main(argv: list[str]) -> None:
    """Narrow what is asked for, then become runc."""
    found = target(argv)
    if found:
        kind, file = found
        narrow(file, kind, bounding_set(Path("/proc/self/status").read_text()))
    runc = str(Path(sys.argv[0]).with_name("runc.real"))
    os.execv(runc, [runc, *argv])  # noqa: S606 - the purpose of this program


if __name__ == "__main__":
    main(sys.argv[1:])

"""What the machine is: the facts printed above the tables, its cores, programs and limits."""

import contextlib
import datetime
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path


def describe(root: Path) -> dict[str, str]:
    """Return the facts a reader needs to place the figures: date, kernel, processor, commit."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": f"{platform.system()} {platform.release()}",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "load": f"{os.getloadavg()[0]:.2f}",
        "python": _python(),
        "commit": _commit(root),
    }


def choose_cores() -> tuple[int, int] | None:
    """Return a core for the server and one for the client, or None when there is only one.

    Two hardware threads of one core share its units, so a client beside the server would slow it
    down: the client gets another core where the machine has one.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return None
    server, *others = allowed
    siblings = _siblings(server)
    return server, next((core for core in others if core not in siblings), others[0])


def core_seconds(core: int) -> float:
    """Return how long a core has run processes since boot, time stolen by the hypervisor included.

    Interrupts are left out: whether the kernel books them here, on the process, or on both is a
    build option, and counting them would see other processes where there are none.
    """
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            # proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal.
            user, nice, system, steal = (int(ticks[index]) for index in (0, 1, 2, 7))
            return (user + nice + system + steal) / os.sysconf("SC_CLK_TCK")
    raise ValueError(f"/proc/stat has no core {core}")


def program(name: str) -> str | None:
    """Return the path of an installed program, None where there is none."""
    # Servers are in folders that ordinary users do not have in their PATH.
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which(name, path=folders)


def program_version(path: str) -> str:
    """Return the version that a program prints for `-v`, "unknown" where it prints none."""
    done = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=10, check=False)
    match = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return match[0] if match else "unknown"


@contextlib.contextmanager
def descriptors(needed: int) -> Iterator[None]:
    """Let this process, and those that it starts meanwhile, open so many descriptors.

    Raises `OSError` where the system does not allow that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    except ValueError as exc:
        raise OSError(f"{needed} open files are needed, the limit is {hard} (ulimit -Hn)") from exc
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _python() -> str:
    """Return implementation, version and how it was built, which changes its speed."""
    # Like this, because a build may leave out the variable, or be made with other words.
    built = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    kinds = {
        "--enable-optimizations": "with PGO",
        "--with-lto": "with LTO",
        "--disable-gil": "free-threaded",
    }
    found = [name for flag, name in kinds.items() if flag in built]
    if sys.base_prefix == "/usr":
        # Distributions optimise in their own ways, of which the interpreter does not know.
        found.append("by the distribution")
    version = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{version} built {', '.join(found or ['without PGO'])}"


def _siblings(core: int) -> set[int]:
    """Return the hardware threads that share a core, as far as the kernel says."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        text = path.read_text().strip()
    except OSError:
        return set()
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _processor() -> str:
    """Return the processor's model name, or the architecture where the kernel has no name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit(root: Path) -> str:
    """Return the commit of the working tree and whether it is modified, "unknown" without git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=-modified"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"

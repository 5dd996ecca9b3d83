"""Pods without Kubernetes: Linux namespaces on a bridge, each with its address and the paths that it was given.

A pod has a network of its own; each of its containers has, beside that, processes, a root folder and mounts of its own.
The image is this very environment: the programs of this machine, read only, and no other folder of it.
"""

import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

NETWORKS = "198.18"
"""Of the range for benchmarks (RFC 2544), which nothing else has in use; each bridge has 254 addresses of it."""
TOOLS = ("hostname", "ip", "mount", "nsenter", "pivot_root", "setpriv", "umount", "unshare")
TOOL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
SETTINGS = (
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "protocols",
    "ssl",
)
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")
GRACE_S = 30
"""What Kubernetes gives a pod to end."""


def missing() -> str | None:
    """Why there can be no pods here; None if there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "pods as namespaces need Linux and root"
    lacking = [name for name in TOOLS if shutil.which(name, path=TOOL_PATH) is None]
    if lacking:
        return f"pods as namespaces need {', '.join(lacking)} (Debian: hostname, iproute2, util-linux, mount)"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"this machine grants no namespaces: {tried.stderr.strip()}"


@dataclass(frozen=True)
class Mount:
    """What lies at a path of a container."""

    path: str
    source: Path | None
    """A folder or file of this machine; None is memory."""
    size_bytes: int = 0
    """Of memory."""
    read_only: bool = False


@dataclass(frozen=True)
class Container:
    """One process with what it starts, and all that it can see."""

    name: str
    command: tuple[str, ...]
    variables: dict[str, str]
    user: int
    group: int
    folder: str = "/"
    """Where it starts."""
    mounts: tuple[Mount, ...] = ()
    own: tuple[str, ...] = ()
    """Folders of the image that belong to its user."""
    memory_bytes: int | None = None
    before_end: tuple[str, ...] = ()
    """Run in it before it is asked to end."""


@dataclass
class Running:
    """A container that was started."""

    container: Container
    process: "subprocess.Popen[bytes]"
    log: Path
    cgroup: Path | None

    def memory(self) -> tuple[int, int] | None:
        """The most bytes that it has used, cached files among them, and how many processes were killed for more."""
        if self.cgroup is None:
            return None
        control = dict(line.split() for line in (self.cgroup / "memory.oom_control").read_text().splitlines())
        return int((self.cgroup / "memory.max_usage_in_bytes").read_text()), int(control["oom_kill"])

    def first(self) -> psutil.Process | None:
        """Its process 1, by the number that it has outside."""
        with suppress(psutil.NoSuchProcess):
            return next(iter(psutil.Process(self.process.pid).children()), None)
        return None


@dataclass
class Pod:
    """An address, and containers that share it."""

    name: str
    address: str
    pause: "subprocess.Popen[bytes]"
    """Holds the network while containers come and go."""
    folder: Path
    hosts: Path
    containers: list[Running] = field(default_factory=list)

    def start(self, container: Container) -> Running:
        """Start a container; its output goes to a file beside its root folder."""
        folder = self.folder / container.name
        root, log = folder / "root", folder / "log"
        root.mkdir(parents=True)
        cgroup = memory_cgroup(f"nigaoe-{os.getpid()}-{self.name}-{container.name}", container.memory_bytes)
        script = entering(container, root, self.hosts, cgroup)
        words = [found("setpriv"), "--pdeathsig=KILL", found("nsenter"), f"--target={self.pause.pid}"]
        words += ["--net", "--ipc", "--uts"]
        # Killed with it is its process 1, and with that all others of that namespace.
        words += [found("unshare"), "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-euc", script]
        with log.open("wb") as output:
            process = subprocess.Popen(
                words, env=container.variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        running = Running(container, process, log, cgroup)
        self.containers.append(running)
        return running

    def run(self, container: Container, timeout_s: float) -> None:
        """Run a container to its end, as those that come before the others are."""
        running = self.start(container)
        if (code := running.process.wait(timeout_s)) != 0:
            raise RuntimeError(f"{self.name}/{container.name} ended with {code}:\n{tail(running.log)}")

    def execute(self, running: Running, command: Sequence[str], timeout_s: float) -> "subprocess.CompletedProcess[str]":
        """Run a command in a container that runs, as `kubectl exec` does."""
        first = running.first()
        if first is None:
            raise RuntimeError(f"{self.name}/{running.container.name} has ended:\n{tail(running.log)}")
        words = [found("nsenter"), f"--target={first.pid}", "--all", "--root", "--wd"]
        words += [*as_user(running.container), *command]
        variables = running.container.variables
        return subprocess.run(words, env=variables, capture_output=True, text=True, timeout=timeout_s)

    def ask_to_end(self) -> None:
        """What Kubernetes does first: what a container wants run before, then SIGTERM to its process 1."""
        for running in self.containers:
            if running.process.poll() is None and running.container.before_end:
                with suppress(subprocess.TimeoutExpired, RuntimeError):
                    self.execute(running, running.container.before_end, GRACE_S)
            if (first := running.first()) is not None:
                with suppress(psutil.NoSuchProcess):
                    first.send_signal(signal.SIGTERM)

    def end(self, deadline: float) -> None:
        """What it does then: wait, and kill."""
        for running in self.containers:
            first = running.first()
            with suppress(subprocess.TimeoutExpired):
                running.process.wait(max(0.0, deadline - time.monotonic()))
            running.process.kill()
            running.process.wait()
            if first is not None:
                first.wait(GRACE_S)
            if running.cgroup is not None:
                remove_cgroup(running.cgroup)
        self.pause.kill()
        self.pause.wait()


class Network:
    """A bridge with pods on it; all end with the block, each by its own process id."""

    def __init__(self, folder: Path, grace_s: float = GRACE_S) -> None:
        self.folder = folder
        self.grace_s = grace_s
        self.pods: list[Pod] = []
        self._numbers = itertools.count(2)
        self._names: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.bridge, self.subnet = free_bridge()
        self._hosts = self.folder / "hosts"
        self._write_names()
        command("ip", "address", "add", f"{self.subnet}.1/24", "dev", self.bridge)
        command("ip", "link", "set", self.bridge, "up")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end(*self.pods)
        finally:
            command("ip", "link", "del", self.bridge)

    def add(self, name: str) -> Pod:
        """A pod of that name, without containers."""
        number = next(self._numbers)
        address = f"{self.subnet}.{number}"
        words = [found("setpriv"), "--pdeathsig=KILL", found("unshare"), "--net", "--ipc", "--uts"]
        words += ["sh", "-euc", 'hostname "$1"; echo ready; exec sleep infinity', "pause", name]
        pause = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        pod = Pod(name, address, pause, self.folder / name, self._hosts)
        self.pods.append(pod)
        assert pause.stdout is not None
        with pause.stdout:
            if pause.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the network of {name!r} could not be made")
        inside, link = ["nsenter", f"--target={pause.pid}", "--net", "ip"], f"{self.bridge}p{number}"
        command("ip", "link", "add", link, "type", "veth", "peer", "eth0", "netns", str(pause.pid))
        command("ip", "link", "set", link, "master", self.bridge, "up")
        command(*inside, "link", "set", "lo", "up")
        command(*inside, "address", "add", f"{address}/24", "dev", "eth0")
        command(*inside, "link", "set", "eth0", "up")
        # Ray finds its own address by a route to the world; there is none beyond this machine.
        command(*inside, "route", "add", "default", "via", f"{self.subnet}.1")
        self.resolve(name, address)
        return pod

    def end(self, *pods: Pod) -> None:
        """End pods, all at a time as those of a cluster that is deleted, and forget their names."""
        for pod in pods:
            pod.ask_to_end()
        self._end(pods, self.grace_s)

    def kill(self, pod: Pod) -> None:
        """End a pod as a machine that fails does."""
        self._end((pod,), 0)

    def _end(self, pods: Sequence[Pod], grace_s: float) -> None:
        deadline = time.monotonic() + grace_s
        for pod in pods:
            pod.end(deadline)
            self.pods.remove(pod)
        gone = {pod.address for pod in pods}
        self._names = {name: address for name, address in self._names.items() if address not in gone}
        self._write_names()

    def resolve(self, name: str, address: str) -> None:
        """Have a name lead to an address, in every pod."""
        self._names[name] = address
        self._write_names()

    def _write_names(self) -> None:
        # In place: it is mounted into pods as a file.
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self._names.items())]
        self._hosts.write_text("\n".join(lines) + "\n")


def free_bridge() -> tuple[str, str]:
    """A new bridge, and the first three numbers of its addresses."""
    for number in range(256):
        name = f"nigaoe{number}"
        if subprocess.run(["ip", "link", "show", name], capture_output=True).returncode != 0:
            command("ip", "link", "add", name, "type", "bridge")
            return name, f"{NETWORKS}.{number}"
    raise ValueError("there are 256 bridges of runs that were killed; remove them with `ip link del nigaoe0` and so on")


def entering(container: Container, root: Path, hosts: Path, cgroup: Path | None) -> str:
    """The script that makes a container of a process: its root folder, what is mounted there, and who it is."""
    place = shlex.quote(str(root))
    lines = ["wanted=$PATH", f"PATH={TOOL_PATH}"]
    lines += [] if cgroup is None else [f"echo 0 > {shlex.quote(str(cgroup / 'cgroup.procs'))}"]
    # Nothing that is mounted from here on is seen outside.
    lines += ["umask 022", "mount --make-rprivate /", f"mount --bind {place} {place}", f"cd {place}"]
    lines += ["mkdir -p proc sys dev etc tmp run var/tmp .old", "chmod 1777 tmp var/tmp"]
    lines += programs() + settings(container) + bound(hosts, "/etc/hosts", read_only=True) + devices()
    lines += ["mount -t proc proc proc", "mount -t sysfs -o ro sysfs sys"]
    lines.append("mount -t tmpfs -o size=4k tmpfs sys/fs/cgroup")
    if cgroup is not None:
        # Where Ray reads how much memory it has.
        lines += bound(cgroup, "/sys/fs/cgroup/memory", read_only=True)
    for mount in container.mounts:
        target = shlex.quote(mount.path.lstrip("/"))
        if mount.source is None:
            lines += [f"mkdir -p {target}", f"mount -t tmpfs -o mode=1777,size={mount.size_bytes} tmpfs {target}"]
        else:
            lines += bound(mount.source, mount.path, mount.read_only)
    lines += ["pivot_root . .old", "umount -l /.old", "rmdir /.old", f"cd {shlex.quote(container.folder)}"]
    entered = shlex.join(as_user(container, "--pdeathsig=KILL"))
    lines.append(f'exec {entered} env PATH="$wanted" {shlex.join(container.command)}')
    return "\n".join(lines)


def programs() -> list[str]:
    """Lines for what this machine has installed, and for this Python."""
    lines = []
    for path in (Path("/", name) for name in PROGRAMS):
        if path.is_symlink():
            lines.append(f"ln -s {shlex.quote(os.readlink(path))} {path.name}")
        elif path.is_dir():
            lines += bound(path, str(path), read_only=True)
    for prefix in sorted({sys.prefix, sys.base_prefix}):
        lines += [] if prefix.startswith("/usr") else bound(Path(prefix), prefix, read_only=True)
    return lines


def settings(container: Container) -> list[str]:
    """Lines for /etc, and for the folders of the container's user."""
    lines = [f"cp -a /etc/{name} etc/" for name in SETTINGS if Path("/etc", name).exists()]
    user, group = container.user, container.group
    lines += [f"echo ray:x:{user}:{group}::/home/ray:/bin/bash > etc/passwd", f"echo ray:x:{group}: > etc/group"]
    owned = [shlex.quote(path.lstrip("/")) for path in container.own]
    return [*lines, ": > etc/resolv.conf", *(f"install -d -o {user} -g {group} {path}" for path in owned)]


def devices() -> list[str]:
    """Lines for the devices that every container has."""
    lines = ["mount -t tmpfs -o mode=755,size=64k tmpfs dev", "ln -s /proc/self/fd dev/fd"]
    for name in DEVICES:
        lines += [f": > dev/{name}", f"mount --bind /dev/{name} dev/{name}"]
    lines += [f"ln -s fd/{number} dev/{name}" for number, name in enumerate(("stdin", "stdout", "stderr"))]
    # As much shared memory as a container has if nobody says more.
    return [*lines, "mkdir dev/shm", "mount -t tmpfs -o mode=1777,size=64m tmpfs dev/shm"]


def bound(source: Path, path: str, read_only: bool) -> list[str]:
    """Lines that put a folder or file of this machine at a path below the root folder that is being made."""
    target, origin = shlex.quote(path.lstrip("/")), shlex.quote(str(source))
    make = f"mkdir -p {target}" if source.is_dir() else f"mkdir -p $(dirname {target}); : > {target}"
    return [make, f"mount --bind {'-o ro ' if read_only else ''}{origin} {target}"]


def found(tool: str) -> str:
    """Where a program of this machine is; a container's own PATH may not lead there."""
    path = shutil.which(tool, path=TOOL_PATH)
    assert path is not None, f"{tool} is looked for by missing()"
    return path


def as_user(container: Container, *more: str) -> list[str]:
    """What makes a process one of an unprivileged user, who can never become another."""
    user = [f"--reuid={container.user}", f"--regid={container.group}", f"--groups={container.group}"]
    return [found("setpriv"), *user, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", *more, "--"]


def memory_cgroup(name: str, limit_bytes: int | None) -> Path | None:
    """A group below this process's own that may use so much; None where such groups are not of the first version."""
    if limit_bytes is None or not (MEMORY_CGROUPS / "memory.limit_in_bytes").exists():
        return None
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next(line.split(":", 2)[2] for line in lines if ":memory:" in line)
    group = Path(f"{MEMORY_CGROUPS}{own.rstrip('/')}/{name}")
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
    return group


def remove_cgroup(group: Path) -> None:
    """It is empty a moment after its last process has ended."""
    deadline = time.monotonic() + GRACE_S
    while True:
        try:
            return group.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def command(*words: str) -> None:
    """Run a program whose failure is an error of ours."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(words)} failed: {done.stderr.strip()}")


def tail(log: Path, lines: int = 40) -> str:
    """The end of what a container said."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])

"""The door of the bench: arguments, and a network of its own.

Everything runs in fresh network and process namespaces. So no other traffic and no setting of the
machine's own network is in the figures (a congestion control that paces, such as bbr, would distort
loopback), nothing of the machine is changed, and however the bench ends, the kernel ends its
processes and removes its network.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import rounds
from bench.scenes import GROUPS

_INTERRUPTED = 130
_INSIDE = "RDP_PROXY_BENCH_DIRECTORY"
_TOOLS = {
    "gcc": "gcc libc6-dev",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "nginx": "nginx libnginx-mod-stream",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}

# bbr paces; ephemeral ports and the table of closed connections must not be what gives out.
_SYSCTLS = {
    "net/ipv4/tcp_congestion_control": "reno",
    "net/ipv4/ip_local_port_range": "10000 65535",
    "net/ipv4/tcp_tw_reuse": "1",
    "net/ipv4/tcp_max_tw_buckets": "262144",
    "net/ipv4/tcp_max_syn_backlog": "8192",
    "net/core/somaxconn": "8192",
}


def main() -> int:
    """Parse, enter the namespaces, measure. 0 whatever the figures are."""
    args = _arguments()
    inside = os.environ.get(_INSIDE)
    if inside is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us hears it too, and ends us
        _settle()
        return rounds.run(args, Path(inside))
    if os.geteuid() != 0:
        return _refuse("it makes a network namespace: run it as root")
    missing = sorted({name for tool, name in _TOOLS.items() if shutil.which(tool) is None})
    if missing:
        return _refuse(f"missing tools: apt-get install {' '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="rdp-proxy-bench-") as directory:
        # Directory and files are for contenders that may change their user.
        Path(directory).chmod(0o755)
        return _enter(directory)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure rdp-proxy, HAProxy and nginx side by side.",
        allow_abbrev=False,
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="5; with --quick 1")
    parser.add_argument("--quick", action="store_true", help="one round of short scenes")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(GROUPS),
        metavar="GROUP,…",
        help=f"of {', '.join(GROUPS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there, too")
    parser.add_argument(
        "--haproxy",
        action="append",
        default=[],
        metavar="PATH",
        help="another HAProxy to take part; may be repeated",
    )
    parser.add_argument(
        "--before",
        type=lambda text: Path(text).resolve(strict=True),
        metavar="DIRECTORY",
        help="another checkout of rdp-proxy to take part, to see what a change has brought",
    )
    args = parser.parse_args()
    if unknown := set(args.only) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    args.rounds = args.rounds or (1 if args.quick else 5)
    if args.json is not None:
        args.json = args.json.resolve()
    return args


def _refuse(reason: str) -> int:
    sys.stderr.write(f"bench: {reason}\n")
    return 2


def _enter(directory: str) -> int:
    """Run this program once more, inside: it ends with us, and everything in there ends with it."""
    words = ["setpriv", "--pdeathsig", "KILL"]
    words += ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    words += [sys.executable, "-m", "bench", *sys.argv[1:]]
    child = subprocess.Popen(words, env=os.environ | {_INSIDE: directory})

    def end(*_: object) -> None:
        child.kill()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    code = child.wait()
    return code if code >= 0 else _INTERRUPTED


def _settle() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for name, value in _SYSCTLS.items():
        try:
            Path("/proc/sys", name).write_text(value)
        except OSError as error:
            sys.stderr.write(f"bench: {name} stays as it is: {error.strerror}\n")


if __name__ == "__main__":
    sys.exit(main())

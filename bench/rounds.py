"""The rounds: every group of scenes through every contender in turn, over and over.

Interleaved, so that what the machine does meanwhile falls on all alike; the order is rotated from
round to round, so that nobody always comes first. A contender is started fresh for each group.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from bench import contenders, processes, results
from bench.contenders import Contender, Running, StartError
from bench.load import Load, Result, SceneError, load
from bench.processes import Memory
from bench.scenes import (
    IDLE_COUNTS,
    IDLE_CPU_COUNT,
    SCENES,
    Scene,
    metrics,
    takes_part,
)

_SETTLE_S = 0.7
_IDLE_CPU_S = 3.0
_QUICK = 0.6  # of the usual time
_LATE_PERCENT = 1.0
_COMPLAINT = re.compile(
    r'"level": ?"(?:warning|error|critical)"|Traceback|\[(?i:alert|crit|error)\]'
)


class Rounds:
    """All figures of a run, as they come in."""

    def __init__(self, args: argparse.Namespace, directory: Path) -> None:
        self.groups: list[str] = args.only
        self.count: int = args.rounds
        self.speed = _QUICK if args.quick else 1.0
        self.all = contenders.contenders(args.haproxy, args.before)
        # metric key -> contender's name -> a value a round
        self.figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.noise_percent: list[float] = []
        self._notes: dict[str, list[str]] = defaultdict(list)  # where -> what was seen there
        self._directory = directory
        self._files = _open_files()

    def play(self) -> None:
        """Play all rounds; what fails becomes a note."""
        begin = time.monotonic()
        with load(self._directory) as generator:
            for number in range(self.count):
                for group in self.groups:
                    for contender in _rotated(self._of(group), number):
                        where = f"round {number + 1}/{self.count}  {group:9} {contender.name}"
                        _say(f"{time.monotonic() - begin:5.0f} s  {where}")
                        self._visit(generator, group, contender)
        _say("")

    def _of(self, group: str) -> list[Contender]:
        return [one for one in self.all if takes_part(one.kind, group)]

    def _visit(self, generator: Load, group: str, contender: Contender) -> None:
        place = self._directory / "contender"
        try:
            with contenders.running(contender, place, self._files) as running:
                if group == "idle":
                    self._idle(generator, running)
                for scene in SCENES:
                    if scene.group == group and contender.kind in scene.contenders:
                        for _ in range(scene.times):
                            self._scene(generator, running, scene)
                self._complaints(group, running)
        except StartError as error:
            self._note(contender.name, str(error))

    def _scene(self, generator: Load, running: Running, scene: Scene) -> None:
        name = running.contender.name
        seconds = scene.seconds * self.speed
        warm_s = scene.warm_s
        if scene.group == "bulk" and "--quiet" not in scene.words:
            warm_s += running.contender.bulk_begins_s
        words = (*scene.words, "--warm", str(warm_s), "--seconds", str(seconds))
        try:
            result = generator.play(running, *words, timeout_s=warm_s + seconds)
        except SceneError as error:
            self._note(f"{name}: {scene.name}", str(error))
            return
        for metric, value in scene.figures:
            # Nobody is in between: `direct` has no processor time of a proxy.
            if running.pids or ".cpu_" not in metric.key:
                self.figures[metric.key][name].append(value(result))
        self._judge(f"{name}: {scene.name}", result)

    def _judge(self, where: str, result: Result) -> None:
        for fault in ("errors", "hung"):
            if result.get(fault):
                self._note(where, f"{result[fault]:.0f} connections: {fault}")
        late = 100 * result.get("late", 0) / max(1, result.get("messages", 1))
        if late > _LATE_PERCENT:
            self._note(where, f"{late:.1f} % of the messages were left out: no answer in time")
        others_s = result["system_cpu_s"] - result["proxy_cpu_s"] - result["load_cpu_s"]
        self.noise_percent.append(100 * others_s / result["seconds"])

    def _idle(self, generator: Load, running: Running) -> None:
        name = running.contender.name
        room = contenders.connections_max(self._files)
        time.sleep(_SETTLE_S)
        before = Memory.of(running.pids)
        steps = sorted({*IDLE_COUNTS, IDLE_CPU_COUNT})
        try:
            with generator.idle(running, min(steps[-1], room)) as idle:
                for count in steps:
                    idle.open(min(count, room))
                    time.sleep(_SETTLE_S)
                    if count == IDLE_CPU_COUNT:
                        self._idle_cpu(running)
                    else:
                        self._idle_memory(running, before, count, min(count, room))
        except SceneError as error:
            self._note(f"{name}: idle", str(error))
        if room < steps[-1]:
            self._note("idle", f"{room} connections at most: the limit of open files is low")

    def _idle_cpu(self, running: Running) -> None:
        if running.pids:
            percent = processes.cpu_percent(running.pids, _IDLE_CPU_S * self.speed)
            self.figures["idle.cpu_percent"][running.contender.name].append(percent)

    def _idle_memory(self, running: Running, before: Memory, count: int, open_now: int) -> None:
        now = Memory.of(running.pids)
        each = {"kernel_kb": now.kernel - before.kernel}
        if running.pids:
            each |= {"rss_kb": now.rss - before.rss, "pss_kb": now.pss - before.pss}
        for kind, grown in each.items():
            value = grown / open_now / 1024
            self.figures[f"idle.{count}.{kind}"][running.contender.name].append(value)

    def _complaints(self, group: str, running: Running) -> None:
        """What a contender has written that it should not have had to."""
        if not running.log.exists():
            return
        with running.log.open(errors="replace") as lines:
            found = [line for line in lines if _COMPLAINT.search(line)]
        if found:
            first = f"{len(found)} complaints in its log, the first: {found[0].strip()[:400]}"
            self._note(f"{running.contender.name}: {group}", first)
        if gone := [pid for pid in running.pids if pid not in processes.family(running.pids[0])]:
            self._note(f"{running.contender.name}: {group}", f"processes {gone} have ended")

    def _note(self, where: str, what: str) -> None:
        self._notes[where].append(what)

    @property
    def notes(self) -> list[str]:
        """What went wrong; of each place the first, and how often."""
        return [
            f"{where}: {seen[0]}" + (f" ({len(seen)} times such)" if len(seen) > 1 else "")
            for where, seen in self._notes.items()
        ]


def run(args: argparse.Namespace, directory: Path) -> int:
    """Measure, then print; `--json` too. 0 whatever the figures are: they are no test."""
    rounds = Rounds(args, directory)
    rounds.play()
    kinds = {one.name: one.kind for one in rounds.all}
    summary = results.summarise(metrics(rounds.groups), rounds.figures, kinds)
    said = results.Circumstances(
        rounds=rounds.count,
        quick=args.quick,
        versions=contenders.versions(rounds.all),
        noise_percent=results.median(rounds.noise_percent),
        notes=rounds.notes,
    )
    sys.stdout.write(results.as_text(summary, kinds, said))
    if args.json is not None:
        args.json.write_text(results.as_json(summary, said, rounds.figures))
    return 0


def _rotated(items: list[Contender], by: int) -> Iterator[Contender]:
    start = by % len(items)
    return iter(items[start:] + items[:start])


def _open_files() -> int:
    """Raise the limit for everything that is started here; what the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(hard, 65_536)


def _say(text: str) -> None:
    """Progress, on one line of a terminal."""
    end = "" if sys.stderr.isatty() else "\n"
    sys.stderr.write(f"\r\x1b[K{text}" if not end else f"{text}{end}")
    sys.stderr.flush()

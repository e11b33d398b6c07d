"""Report: what the demo shows of its runs, live and at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from proxy.lab.login import LoginResult
from proxy.lab.play import Run

_TRACES = 3


@contextmanager
def live(console: Console, balancer: str, total: int) -> Iterator[Callable[[Run], None]]:
    """Show a run while it goes: a bar on a terminal, else a line for each quarter."""
    if console.is_terminal:
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("logins, {task.fields[failed]} failed"),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(balancer, total=total, failed=0)
            yield lambda run: progress.update(
                task, completed=len(run.results), failed=len(run.failures)
            )
        return

    def line(run: Run) -> None:
        done = len(run.results)
        if done * 4 // total > (done - 1) * 4 // total:
            told = f"{balancer}: {done} of {total} logins, {len(run.failures)} failed"
            console.print(told, highlight=False, soft_wrap=True)

    yield line


def table(runs: Sequence[Run]) -> Table:
    """One row for each balancer. Where 80 columns are all there is, its words are whole still."""
    grid = Table(title="The same logins through each balancer", box=None, pad_edge=False)
    grid.add_column("balancer", no_wrap=True)
    for title in ("logins", "failed", "tokens", "misrouted", "added ms", "p99"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("failures by cause")
    for run in runs:
        summary = run.summary()
        figures = ("logins", "failed", "tokens", "tokens_misrouted", "added_ms_p50", "added_ms_p99")
        cells = ["-" if summary[key] is None else str(summary[key]) for key in figures]
        causes = [f"{count} {cause.replace('_', ' ')}" for cause, count in run.causes.most_common()]
        grid.add_row(run.balancer, *cells, ", ".join(causes) or "none")
    return grid


def traces(runs: Sequence[Run]) -> list[tuple[str, LoginResult]]:
    """A few failed logins, as different from each other as there are."""
    failed = [(run.balancer, result) for run in runs for result in run.failures]
    kinds: set[tuple[object, ...]] = set()
    chosen: list[tuple[str, LoginResult]] = []
    others: list[tuple[str, LoginResult]] = []
    for balancer, result in failed:
        kind = (balancer, result.failure, len(result.legs))
        (others if kind in kinds else chosen).append((balancer, result))
        kinds.add(kind)
    return (chosen + others)[:_TRACES]


def show(console: Console, runs: Sequence[Run]) -> None:
    """The table, what its times mean, and the traces."""
    console.print(table(runs))
    console.print(
        "Added ms, median and 99th percentile: a login through the balancer against the same login "
        "dialled straight to the hosts that it reached, right after it. Only logins that succeed "
        "have one.",
        highlight=False,
    )
    for balancer, result in traces(runs):
        console.print(f"\nThrough {balancer}:", style="bold", highlight=False)
        for sentence in result.words():
            console.print(f"  {sentence}", highlight=False, markup=False, soft_wrap=True)


def as_json(runs: Sequence[Run]) -> str:
    return json.dumps({"runs": [run.summary() for run in runs]})

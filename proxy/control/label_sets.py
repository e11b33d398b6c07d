"""Label sets: what the library counts under, bound once, and let go when their owner has gone.

An owner is what labels name and a reload can remove: a listener, one of its collections, a pool, a
host. Whatever it owns is shown for `SHOWN_S` after it has gone, so that its last counts have been
scraped; an owner that is back by then goes on from them.

Law: what no reload can remove (`other`, the values of enumerations) owns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from prometheus_client import Counter, Histogram, disable_created_metrics

from proxy.control.series import LIVE_COUNTERS, OTHER, PREFIX, SERIES

SHOWN_S = 300.0  # five minutes are as far back as Prometheus looks for a sample
_AT_ONCE = 100  # hosts: a millisecond

Owner = tuple[str, ...]  # the label that names it, and what it takes to name it
Child = Counter | Histogram
_Key = tuple[str, ...]  # name of the series, values of its labels

# Without it every counter brings a second series, its age, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]


class LabelSets:
    """The counters and histograms of `SERIES`, by name and labels."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` tells seconds. Series without labels are there from the start."""
        self._clock = clock
        self._families: dict[str, Child] = {}
        for name, series in SERIES.items():
            if series.kind == "counter" and name not in LIVE_COUNTERS:
                counter = Counter(PREFIX + name, series.text, series.labels, registry=None)
                self._families[name] = counter
            elif series.kind == "histogram":
                self._families[name] = Histogram(
                    PREFIX + name,
                    series.text,
                    series.labels,
                    registry=None,
                    buckets=series.buckets,
                )
        self._bound: dict[_Key, Child] = {}
        self._owned: dict[Owner, set[_Key]] = {}
        self._there: set[Owner] = set()
        self._gone: dict[Owner, float] = {}  # since when
        for name in self._families:
            if not SERIES[name].labels:
                self.bind(name)

    def bind(self, name: str, *labels: str) -> Child:
        """The one that counts under these labels, made where it is not there yet."""
        key = (name, *labels)
        child = self._bound.get(key)
        if child is None:
            family = self._families[name]
            child = self._bound[key] = family.labels(*labels) if labels else family
            for owner in _owners(key):
                self.own(owner)
                self._owned[owner].add(key)
        return child

    def own(self, owner: Owner) -> None:
        """Have `let_go` tell when this owner has gone, whether it owns anything here or not."""
        if owner not in self._owned:
            self._owned[owner] = set()
            if owner not in self._there:
                self._gone[owner] = self._clock()

    def follow(self, owners: Iterable[Owner]) -> None:
        """These are there from now on, and no others."""
        self._there = set(owners)
        for owner in self._owned.keys() - self._there - self._gone.keys():
            self._gone[owner] = self._clock()
        for owner in self._gone.keys() & self._there:
            del self._gone[owner]

    def come(self, owner: Owner) -> None:
        """This one is there, too."""
        self._there.add(owner)
        self._gone.pop(owner, None)

    def leave(self, owner: Owner) -> None:
        """This one has gone."""
        self._there.discard(owner)
        if owner in self._owned:
            self._gone.setdefault(owner, self._clock())

    def let_go(self) -> list[Owner]:
        """Forget what belongs to those who have gone long ago; these, some of them at a time."""
        now = self._clock()
        due = (owner for owner, since in self._gone.items() if now - since >= SHOWN_S)
        forgotten = list(islice(due, _AT_ONCE))
        for owner in forgotten:
            del self._gone[owner]
            for key in self._owned.pop(owner):
                self._forget(key)
        return forgotten

    def all(self) -> Iterator[tuple[_Key, Child]]:
        """All that are bound now, whatever comes and goes while they are looked through."""
        for key in list(self._bound):
            child = self._bound.get(key)
            if child is not None:
                yield key, child

    def counts(self, name: str) -> list[tuple[dict[str, str], float]]:
        """What one series stands at, for each set of its labels."""
        (family,) = self._families[name].collect()
        return [(sample.labels, sample.value) for sample in family.samples]

    def _forget(self, key: _Key) -> None:
        name, *labels = key
        del self._bound[key]
        self._families[name].remove(*labels)
        for owner in _owners(key):
            if owner in self._owned:
                self._owned[owner].discard(key)


def _owners(key: _Key) -> Iterator[Owner]:
    """Those without any of whom a label set has no sense."""
    of = dict(zip(SERIES[key[0]].labels, key[1:], strict=True))
    if "listener" in of:
        yield "listener", of["listener"]
    if of.get("alias", OTHER) != OTHER:
        yield "alias", of["listener"], of["alias"]
    if of.get("pool", OTHER) != OTHER:
        if of.get("host", OTHER) != OTHER:
            yield "host", of["pool"], of["host"]
        else:
            yield "pool", of["pool"]

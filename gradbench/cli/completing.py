"""What the shell completes: names that are known without importing torch.

Functions, operators and modes are those that a worker offered last, kept in the user's cache, and
those of the newest run; runs, tracks, studies and releases are looked up where they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from gradbench import __version__
from gradbench.core.families import ALL, APPLICATIONS, NOTEBOOKS, family_of
from gradbench.core.operators import ADVISED
from gradbench.core.text import line
from gradbench.store import cache

if TYPE_CHECKING:
    from gradbench.runner.workers import Discovery
    from gradbench.store.runs import RunStarted

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

KINDS = ("function", "family", "operator", "mode", "size", "case")
MOST = 500
"""Names that a shell is given at most."""

_NAMED = re.compile(r'^\s+name="([^"]+)"', re.MULTILINE)
_ENTRY = hashlib.blake2b(f"names {__version__}".encode(), digest_size=32).hexdigest()


def keep(discovery: Discovery) -> None:
    """Keeps what a worker offers, for the shell."""
    offers = discovery.offers
    names = {
        "function": sorted({offer.function for offer in offers}),
        "family": sorted({ALL, *(offer.family for offer in offers)}),
        "operator": sorted({offer.operator for offer in offers}),
        "mode": sorted({mode for offer in offers for mode in (*offer.modes, *offer.opt_in)}),
        "size": sorted({label for offer in offers for label in offer.labels}),
        "case": [f"{o.operator}/{o.function}/{mode}" for o in offers for mode in o.modes],
    }
    content = json.dumps(names).encode()
    if cache.load(_ENTRY) != content:
        cache.save(_ENTRY, content)


def _kept(kind: str) -> list[str]:
    """The names of a kind that were kept; without a cache those that are known otherwise."""
    content = cache.load(_ENTRY)
    if content is not None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return [str(name) for name in json.loads(content)[kind]]
    if kind == "operator":
        return list(ADVISED)
    if kind == "family":
        return [ALL, APPLICATIONS, NOTEBOOKS]
    return sorted(_declared()) if kind == "function" else []


def _declared() -> Iterator[str]:
    """The catalogue's functions as its files name them."""
    for path in (Path(__file__).parents[1] / "problems" / "catalogue").rglob("*.py"):
        with contextlib.suppress(OSError, UnicodeError):
            yield from _NAMED.findall(path.read_text("utf-8"))


def _items(names: Iterable[str], begun: str) -> list[CompletionItem]:
    """The names that a shell may be given: not those with characters that it would obey."""
    chosen = [
        name for name in dict.fromkeys(names) if name.startswith(begun) and name == line(name)
    ]
    return [CompletionItem(name) for name in chosen[:MOST]]


def _results(context: click.Context) -> Path:
    return Path(context.params.get("results") or "results")


def _newest(context: click.Context) -> RunStarted | None:
    """The plan of the newest run, of which only the first line is read."""
    from gradbench.store import runs

    with contextlib.suppress(runs.StoreError, OSError, ValueError):
        place = _results(context)
        named = context.params.get("run")
        path = runs.locate(place, named if isinstance(named, str) else "latest")
        return runs.read_header(path).started
    return None


def stored(field: str) -> Complete:
    """Completes a part of the cases of the newest run: for what filters stored cases."""

    def complete(
        context: click.Context, param: click.Parameter, begun: str
    ) -> list[CompletionItem]:
        return _items(sorted(_planned(_newest(context), field)), begun)

    return complete


def _planned(started: RunStarted | None, field: str) -> set[str]:
    plan = started.plan if started is not None else []
    if field == "mode":
        return {mode for entry in plan for mode in entry.modes}
    if field == "family" and started is not None:
        return {family_of(entry.comparison.function, started.families) for entry in plan}
    return {str(getattr(entry.comparison, field)) for entry in plan}


def offered(field: str) -> Complete:
    """Completes what can be measured: functions, operators, modes and sizes."""

    def complete(
        context: click.Context, param: click.Parameter, begun: str
    ) -> list[CompletionItem]:
        names = {*_kept(field), *_planned(_newest(context), field)}
        return _items(sorted(names), begun)

    return complete


def case(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Completes OPERATOR/FUNCTION/MODE, up to the next slash."""
    names = _kept("case")
    depth = begun.count("/") + 1
    parts = dict.fromkeys("/".join(name.split("/")[:depth]) for name in names)
    return _items((f"{p}/" if depth < 3 else p for p in parts), begun)


def comparison(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    started = _newest(context)
    plan = started.plan if started is not None else []
    return _items((str(entry.comparison) for entry in plan), begun)


def _logs(store: Any, context: click.Context, *more: str) -> list[str]:
    from gradbench.store.lines import StoreError, is_log, stem

    with contextlib.suppress(OSError, ValueError, StoreError):
        names = [stem(path) for path in store.KIND.paths(_results(context)) if is_log(path)]
        return [*more, *names[::-1]]
    return list(more)


def run(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    from gradbench.store import runs

    return _items(_logs(runs, context, "latest"), begun)


def track(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    from gradbench.store import tracks

    return _items(_logs(tracks, context, "latest"), begun)


def study(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    from gradbench.store import studies

    names = _logs(studies, context, "latest")
    kind = context.info_name if param.name == "resumed" else ""
    return _items((n for n in names if n == "latest" or n.startswith(kind or "")), begun)


def plotted(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Completes what a figure is of: runs, tracks or studies."""
    from gradbench.store import studies

    kind = str(context.params.get("kind") or "")
    if kind == "releases":
        return track(context, param, begun)
    names = [name for name in _logs(studies, context) if name.startswith(f"{kind}-")]
    return _items(names, begun) if names else run(context, param, begun)


def release(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    from gradbench.core.releases import RELEASES

    return _items([*_installed(), *(known.version for known in RELEASES[::-1])], begun)


def installed(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    return _items(_installed(), begun)


def _installed() -> list[str]:
    from gradbench.releases import environments

    with contextlib.suppress(OSError, ValueError):
        return [environment.name for environment in environments.recorded()]
    return []


def bisected(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Completes a case, where there is none yet, and releases."""
    words = context.params.get("words") or ()
    cases = [] if any("/" in word for word in words) else case(context, param, begun)
    return [*cases, *release(context, param, begun)]


def measured(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Completes the builds of the stored tracks, by the first line of each."""
    from gradbench.store import tracks
    from gradbench.store.lines import StoreError

    names: dict[str, None] = {}
    with contextlib.suppress(OSError, ValueError, StoreError):
        for path in tracks.KIND.paths(_results(context))[::-1]:
            with contextlib.suppress(StoreError, OSError), tracks.KIND.opened(path) as lines:
                names |= dict.fromkeys(name for group in lines.header.groups for name in group)
    return _items(names, begun)

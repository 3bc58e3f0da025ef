"""What to try first, in a sentence for each operator of each run."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gradbench.analysis import recommend
from gradbench.analysis.recommend import Recommendation, Standing
from gradbench.core.cases import DOCUMENTS, Comparison
from gradbench.core.units import counted, multiple
from gradbench.report.data import Stored

MOST_TIES = 3
"""Modes named in a sentence as too close to call."""

Sentence = list[str]
"""Prose and names of modes in turn, prose first."""


@dataclass(frozen=True)
class View:
    """One operator in one place of one run, at all sizes (`size` is empty) or at one."""

    run: str
    size: str
    found: Recommendation

    @property
    def operator(self) -> str:
        return self.found.where.operator

    def __str__(self) -> str:
        return "".join(sentence(self.found))


def views(run: Stored, selected: Collection[tuple[str, str]]) -> Iterator[View]:
    """The views of the selected comparisons and modes of a run, by operator in its order: each
    place at all sizes, then at each size."""
    rows = [row for row in run.judged.rows if (str(row.comparison), row.mode) in selected]
    judged = msgspec.structs.replace(run.judged, rows=rows)
    every = list(recommend.of_run(judged, run.header))
    operators = list(dict.fromkeys(found.where.operator for found in every))
    for found in sorted(every, key=lambda found: operators.index(found.where.operator)):
        yield View(run.name, "", found)
        sizes = dict.fromkeys(comparison.size for comparison in found.comparisons)
        if len(sizes) < 2:
            continue
        for size in sizes:
            chosen = {c for c in found.comparisons if c.size == size}
            rows = [row for row in judged.rows if row.comparison in chosen]
            part = msgspec.structs.replace(judged, rows=rows)
            for one in recommend.of_run(part, run.header):
                yield View(run.name, size, one)


def default_run(own: Sequence[Stored]) -> str:
    """The run that the page of a machine begins with, of its runs: the newest that measured more
    than half as many operators as any other did; empty where there is none.

    The suite is what most people ask for; a later look at few functions or sizes does not hide it.
    """
    counts = [
        len({row.comparison.operator for row in run.judged.rows if row.to_fastest}) for run in own
    ]
    broad = [run for run, count in zip(own, counts) if 2 * count > max(counts)]
    return (broad or own)[-1].name if own else ""


def default_view(found: Iterable[View]) -> View | None:
    """The view that a run's page begins with: Jacobians, else most comparisons, at all sizes."""
    whole = [view for view in found if not view.size]
    ranks = [(view.operator == "jacobian", len(view.found.comparisons)) for view in whole]
    return whole[ranks.index(max(ranks))] if whole else None


def label(comparison: Comparison) -> str:
    """A comparison beside others of its operator: the function, with its size if it has one."""
    if comparison.size == DOCUMENTS:
        return comparison.function
    return f"{comparison.function} ({comparison.size})"


def sentence(found: Recommendation) -> Sentence:
    """The answer: the mode to try first with its average and worst case, then the modes that are
    too close to call, then the usual choice."""
    first, count = found.first, len(found.comparisons)
    made = ["For ", found.where.operator, " try ", first.mode, " first: "]
    if count == 1:
        made[-1] += f"the fastest for {label(found.comparisons[0])}, the only function compared."
    else:
        noun = "function" if len({c.function for c in found.comparisons}) == count else "comparison"
        over = f"{first.covered} of " if first.covered < count else ""
        over += counted(count, noun)
        made[-1] += f"{multiple(first.average)}× the fastest on average over {over}, "
        made[-1] += f"{multiple(first.worst)}× at worst ({label(first.worst_case)})."
    _ties(made, found)
    _usual(made, found)
    for other in found.better_where_supported[:1]:
        made[-1] += " Where it is supported ("
        made[-1] += f"{other.covered} of {count}), "
        made += [other.mode, f" is faster: {multiple(found.slower(other.mode).value)}× the time."]
    return made


def _ties(made: Sentence, found: Recommendation) -> None:
    ties = [standing for standing in found.ties if standing is not found.first]
    if not ties:
        return
    if any(standing.high > 1e300 for standing in ties):
        made[-1] += " One session has no intervals, so this is not certain."
        return
    made[-1] += " Too close to call: "
    for number, standing in enumerate(ties[:MOST_TIES]):
        made[-1] += ", " if number else ""
        made += [standing.mode, ""]
    made[-1] += f" and {len(ties) - MOST_TIES} more." if len(ties) > MOST_TIES else "."


def _usual(made: Sentence, found: Recommendation) -> None:
    usual = found.usual
    if usual is None or usual.by_hand:
        return
    if usual.mode == found.first.mode:
        made[-1] += " It is the usual choice."
        return
    if usual.tied:
        return
    ratio = found.slower(usual.mode)
    made[-1] += " The usual choice, "
    made += [usual.mode, f", takes {multiple(ratio.value)}× its time"]
    if ratio.high < 1e300:
        made[-1] += f" [{multiple(ratio.low)}, {multiple(ratio.high)}]"
    made[-1] += f" and is {multiple(usual.worst)}× the fastest at worst."


def bars(found: Recommendation) -> list[dict[str, Any]]:
    """The bars of a page without scripts: each mode's average and worst case, as shares of the
    axis, which ends where it stops to matter."""
    shown = found.standings + found.by_hand
    end = axis_end([(s.average, s.worst) for s in found.standings])
    return [
        _standing(s)
        | {
            "by_hand": s.by_hand,
            "bar": min(100.0, round(100 * s.average / end, 1)),
            "tick": round(100 * s.worst / end, 1) if s.worst <= end else None,
        }
        for s in shown
    ]


def axis_end(multiples: Sequence[tuple[float, float]]) -> float:
    """Where an axis of averages and worst cases ends: a mode that takes many times as long as the
    others would leave no room for them."""
    best = multiples[0] if multiples else (1.0, 1.0)
    averages = sorted(average for average, _ in multiples)
    middle = averages[len(averages) // 2] if averages else 1.0
    return max(1.5, min(best[1], 3 * best[0]), min(1.3 * middle, 4.0)) * 1.1


def summary(found: Iterable[View]) -> list[dict[str, Any]]:
    """A row per operator and place: the mode to try first and the usual choice, in numbers."""
    rows = []
    whole = [view.found for view in found if not view.size]
    operators = Counter(one.where.operator for one in whole)
    for one in whole:
        where = one.where
        several = operators[where.operator] > 1
        place = place_of(where.device, where.threads)
        rows.append(
            {
                "operator": where.operator,
                "dtype": where.dtype,
                "place": place,
                "apart": ", ".join((where.dtype, place)) if several else "",
                "comparisons": len(one.comparisons),
                "first": _standing(one.first),
                "ties": sum(s.tied for s in one.standings if s is not one.first),
                "usual": _standing(one.usual) if one.usual else None,
                "usual_is_first": one.usual_mode == one.first.mode,
            }
        )
    return rows


def _standing(standing: Standing) -> dict[str, str]:
    return {
        "mode": standing.mode,
        "average": multiple(standing.average),
        "worst": multiple(standing.worst),
        "worst_case": label(standing.worst_case),
    }


def place_of(device: str, threads: int) -> str:
    """A device with its conditions and, on the processor, its number of threads."""
    return f"{device}, {counted(threads, 'thread')}" if device.startswith("cpu") else device


def packed(view: View) -> dict[str, Any]:
    """A view for the page's script. An interval without an end has null."""
    found = view.found
    return {
        "run": view.run,
        "operator": found.where.operator,
        "dtype": found.where.dtype,
        "place": place_of(found.where.device, found.where.threads),
        "size": view.size,
        "usual": found.usual_mode,
        "comparisons": len(found.comparisons),
        "text": sentence(found),
        "modes": [
            {
                "mode": s.mode,
                "average": s.average,
                "low": s.low,
                "high": s.high,
                "worst": s.worst,
                "worstCase": label(s.worst_case),
                "covered": s.covered,
                "tied": s.tied,
                "byHand": s.by_hand,
            }
            for s in found.standings + found.by_hand
        ],
    }


def modes(found: Iterable[View]) -> list[str]:
    """The modes of all views, those that matter most first: what to try first for each operator,
    then the second ones."""
    orders = [_modes(view.found) for view in found if not view.size]
    together = itertools.chain.from_iterable(itertools.zip_longest(*orders))
    return list(dict.fromkeys(filter(None, together)))


def _modes(found: Recommendation) -> list[str]:
    return [standing.mode for standing in found.standings + found.by_hand]

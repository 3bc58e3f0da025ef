"""What a measuring process holds between requests, and its answer to each.

docs/architecture.md describes every message.
"""

from __future__ import annotations

import contextlib
import gc
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from gradbench import state
from gradbench.core import places
from gradbench.core.cases import DOCUMENTS, FORWARD, TF32, Comparison, parse_size
from gradbench.core.deadline import Deadline
from gradbench.core.process import PROTOCOL, Wire
from gradbench.core.units import size
from gradbench.modes.capability import message_of, unsupported_reason
from gradbench.problems import registry
from gradbench.problems.arguments import draw, pose
from gradbench.problems.mode import Mode, Unsupported
from gradbench.worker import cost
from gradbench.worker.contestant import Contestant, TooSlow
from gradbench.worker.devices import Cuda, audit, flusher, set_tf32, synchronizer
from gradbench.worker.environment import environment
from gradbench.worker.failures import failure, line_of
from gradbench.worker.gate import Gate, NoTime
from gradbench.worker.instruments import READERS, profiles
from gradbench.worker.instruments.instrument import Reader, Unreadable
from gradbench.worker.instruments.wall import Visit, WallTime, glance
from gradbench.worker.interference import Visited, processor
from gradbench.worker.memory import limit_memory
from gradbench.worker.noted import Noted
from gradbench.worker.offers import offer

FORKED = "it forks, and the child comes back as if it were the measuring process"


def _placed(declared: Mode | None, answer: dict[str, Any]) -> dict[str, Any]:
    """The same answer, with the file and line of a broken mode that is not gradbench's."""
    home = "" if declared is None else places.of_code(declared.build)
    place = answer.pop("place", "") or home
    if not home or answer["status"] not in ("wrong", "failed"):
        return answer
    return answer | {"reason": f"{answer['reason']} ({place})"}


class Refused(Exception):
    """A request that cannot be carried out, with the reason."""


class Session:
    """The state of one worker: the open comparison and its contestants."""

    def __init__(
        self,
        memory_limit: int,
        clock: Any = time.perf_counter_ns,
        broken: Sequence[str] = (),
        wire: Wire | None = None,
        enforced: bool = False,
    ) -> None:
        self.memory_limit = memory_limit
        self.enforced = enforced
        """Whether the system holds this process to the limit, which else is held by estimate."""
        self.broken = tuple(broken)
        self.forked: Callable[[], bool] = (lambda: False) if wire is None else wire.forked
        self.end_child: Callable[[], None] = (lambda: None) if wire is None else wire.end_child
        self.clock = clock
        self.wall = WallTime(clock)
        self.gate: Gate | None = None
        self.contestants: dict[int, tuple[Contestant, Visit]] = {}
        self.changes: dict[int, Noted] = {}
        self.pass_time = 0
        """Nanoseconds of a call of the function, 0 before it was called: no pass is shorter."""
        self.instruments: dict[str, Reader] = {name: reader() for name, reader in READERS.items()}
        self.compiled = False
        self.failed: list[str] = []
        """A line for each of the user's files that did not load, and were left out."""

    # Each method below with a name in `answer` is one kind of request.

    def hello(self) -> dict[str, Any]:
        return {
            "protocol": PROTOCOL,
            "environment": environment(),
            "failed": self.failed,
            "places": registry.places(),
        }

    def ping(self) -> dict[str, Any]:
        """Does nothing: the driver sees that no other answer came before this one."""
        return {}

    def load(self, files: list[str]) -> dict[str, Any]:
        """Loads files of the user's, as at the start."""
        for path in files:
            self.broken = (*self.broken, *registry.load_file(path))
        # What they leave in memory does not slow later collections.
        return self.close()

    def discover(self) -> dict[str, Any]:
        offers = [
            asdict(offer(function, operator))
            for function in registry.FUNCTIONS.values()
            for operator in function.formulas
        ]
        modes = [
            {
                "operator": operator,
                "mode": mode.name,
                "summary": mode.summary,
                "document": mode.document,
                "opt_in": mode.opt_in,
                "by_hand": mode.by_hand,
                "missing": mode.missing(),
                "source": mode.source(),
            }
            for (operator, _), mode in registry.MODES.items()
        ]
        unavailable = {name: i.unavailable() for name, i in self.instruments.items()}
        return {"offers": offers, "modes": modes, "unavailable": unavailable, "broken": self.broken}

    def open(self, comparison: str, salt: int, fresh: list[int]) -> dict[str, Any]:
        """Poses the problem: the timed arguments, and fresh sets with the numbers in `fresh`."""
        if self.gate is not None:
            self.close()
        wanted = Comparison.parse(comparison)
        function = registry.FUNCTIONS.get(wanted.function)
        if function is None or wanted.operator not in function.formulas:
            why = f": {'; '.join(self.failed)}" if self.failed else ""
            raise Refused(f"there is no {wanted.operator} of {wanted.function} here{why}")
        place = wanted.place
        if not place.on_cpu and not torch.cuda.is_available():
            raise Refused(f"{wanted.device}: there is no CUDA device here")
        if place.on_cpu and wanted.dtype == TF32:
            raise Refused("the processor has no tf32")
        size = None if wanted.size == DOCUMENTS else parse_size(wanted.size)
        torch.set_num_threads(wanted.threads)
        if self.enforced:
            limit_memory(self.memory_limit if place.on_cpu else None)
        changes = state.Changes()
        with state.preserve(changes):
            problem, timed = pose(
                function, wanted.operator, size, wanted.dtype, place.device, wanted.seed(salt, 0)
            )
            drawn = function.example_size if size is None else size
            others = [draw(problem, drawn, wanted.seed(salt, i)) for i in fresh]
            # Fresh sets are numbered from 1 on, so these differ from all of them.
            more = [draw(problem, drawn, wanted.seed(salt, -i)) for i in range(1, place.sets)]
        self.gate = Gate(problem, timed, others, place.transfer, more)
        self.gate.memory_limit = self.memory_limit
        self.gate.changes.add(changes)
        self.gate.after_call = self.end_child
        set_tf32(problem.device, problem.tf32)
        flush = flusher(problem.device) if place.cold else None
        # A made-up clock has no processor time beside it.
        watched = place.on_cpu and self.clock is time.perf_counter_ns
        self.wall = WallTime(
            self.clock, synchronizer(problem.device), flush, processor() if watched else None
        )
        return {
            "outputs": problem.outputs,
            "coordinates": problem.coordinates,
            "result_bytes": problem.result_numel * problem.width,
            "argument_bytes": timed.bytes,
        }

    def prepare(
        self, mode: str, handle: int, warm: int, fresh: list[int], patience: int = 0, limit: int = 0
    ) -> dict[str, Any]:
        """Builds a mode, checks it and plans its visits; `warm` in nanoseconds, 0 only checks.

        Refuses a mode whose call takes longer than `patience` nanoseconds, or whose result cannot
        be told to be right within `limit` nanoseconds; 0: no limit.
        """
        if self.gate is None:
            raise Refused("no comparison is open")
        self.gate.deadline = Deadline(limit * 1e-9 if limit else math.inf)
        declared = registry.MODES.get((self.gate.problem.operator, mode))
        if declared is None:
            return {"status": "unsupported", "reason": "there is no such mode here"}
        missing = declared.missing()
        if missing:
            return {
                "status": "unsupported",
                "reason": f"torch {torch.__version__} has no {missing}",
            }
        self._refresh_snapshot()
        compiles = declared.opt_in
        changes = self.changes[handle] = Noted(function=self.gate.changes, compiles=compiles)
        answer = self._prepare(declared, changes, handle, warm, fresh, patience)
        return changes.noted(_placed(declared, answer))

    def _prepare(
        self,
        declared: Mode,
        changes: Noted,
        handle: int,
        warm: int,
        fresh: list[int],
        patience: int,
    ) -> dict[str, Any]:
        assert self.gate is not None
        try:
            call = self._built(declared, changes)
            refusal = self._refusal(declared, patience)
            if refusal:
                return {"status": "refused", **refusal}
            contestant = self.gate.enter(declared.name, call, declared.leaves)
            contestant.changes = changes.calls
            # Without timing there is no later check.
            finding = contestant.check(fresh, again=None if warm else True, patience=patience)
            changes.left_out = contestant.left_out
        except TooSlow as error:
            return {"status": "refused", "reason": str(error), "takes": error.seconds}
        except NoTime as error:
            return {"status": "refused", "reason": str(error)}
        except Unsupported as error:
            return {"status": "unsupported", "reason": message_of(error)}
        except Exception as error:
            reason = unsupported_reason(error)
            if reason is not None:
                return {"status": "unsupported", "reason": reason}
            return self.failure(error) | {"place": places.of_error(error)}
        if self.forked():
            # Called in a loop it would create ever more processes.
            return {"status": "failed", "reason": FORKED}
        if declared.name == FORWARD:
            self.pass_time = contestant.fastest
        evidence = {"error": finding.error, "ulps": finding.ulps}
        if not finding.passed:
            return {"status": "wrong", "reason": finding.reason, **evidence}
        self.compiled |= declared.opt_in
        if not warm or changes.calls.harmful:
            return {"status": "ok", **evidence}
        with self._watched(contestant):
            if contestant.slow:
                # The check has warmed it up.
                how = self.wall.planned(contestant.work)
            else:
                how = self.wall.warm(contestant.call, contestant.turns, warm)
            if (reason := self._untrusted(contestant)) is not None:
                return {"status": "failed", "reason": reason}
        self.contestants[handle] = (contestant, how)
        return {"status": "ok", "visit": asdict(how), **evidence}

    def _built(self, declared: Mode, changes: Noted) -> Callable[..., Any]:
        """The callable that a mode's builder returns; its changes to the process are undone."""
        assert self.gate is not None
        try:
            return declared.build(self.gate.problem)
        finally:
            self.end_child()
            changes.build.add(state.restore(self.gate.snapshot))

    @contextlib.contextmanager
    def _watched(self, contestant: Contestant) -> Iterator[None]:
        """Undoes the changes to the process by calls of a contestant, and records them."""
        snapshot = contestant.gate.snapshot
        try:
            yield
        finally:
            contestant.changes.add(state.restore(snapshot))

    def _untrusted(self, contestant: Contestant) -> str | None:
        """Why the clock cannot time it, on a device that works asynchronously."""
        assert self.gate is not None
        device = self.gate.problem.device
        if device.type == "cpu":
            return None
        waits = self.wall.synchronize
        call, arguments = contestant.call, contestant.arguments
        return audit(Cuda(), device, waits, self.clock, call, arguments) or None

    def _refusal(self, declared: Mode, patience: int) -> dict[str, Any]:
        """Why the mode must not be called, for lack of memory, or of time by its count of passes:
        the `reason`, and how long a call `takes` at least; empty if it can be called."""
        assert self.gate is not None
        if patience and declared.passes is not None:
            made = declared.passes(self.gate.problem)
            if reason := cost.too_many(made, self.pass_time, patience):
                return {"reason": reason, "takes": made.number * self.pass_time * 1e-9}
        needed = self.gate.bytes_needed(declared.numbers_at_peak(self.gate.problem))
        if needed <= self.memory_limit:
            return {}
        limit = size(self.memory_limit)
        return {"reason": f"would need about {size(needed)}, more than the limit of {limit}"}

    def estimate(self, handles: list[int], rounds: int) -> dict[str, Any]:
        """Nanoseconds of the fastest call of each, in so many rounds of glances that do not count.

        While it was warmed up, a contestant may have had a slow moment of the machine to itself.
        """
        least = {handle: self.contestants[handle][1].call for handle in handles}
        turns = handles * rounds
        visited = self._visited(turns, glance)
        for handle, wall, cpu in zip(turns, visited["blocks"], visited["cpu"]):
            number = self.contestants[handle][1].number
            least[handle] = max(1, min(least[handle], min(wall + cpu) // number))
        return {"calls": [least[handle] for handle in handles]}

    def plan(self, handles: list[int], call: int) -> dict[str, Any]:
        """Plans the visits of contestants as if a call of each took so many nanoseconds."""
        how = self.wall.planned(call)
        for handle in handles:
            self.contestants[handle] = (self.contestants[handle][0], how)
        return {"visit": asdict(how)}

    def visit(self, handles: list[int]) -> dict[str, Any]:
        """Visits in this order: see `interference.Visited`; and the nanoseconds of all of them.

        After each visit the quick part of the process's state is restored. `check` reports what a
        visit changed.
        """
        return self._visited(handles, lambda how: how)

    def _visited(self, handles: list[int], planned: Callable[[Visit], Visit]) -> dict[str, Any]:
        """As `visit`, with another plan for each."""
        visits: list[Visited] = []
        snapshot = self._refresh_snapshot()
        quick = snapshot[: len(state.QUICK)]
        self.wall.begin()
        start = self.clock()
        for handle in handles:
            contestant, how = self.contestants[handle]
            try:
                visits.append(self.wall.visit(contestant.call, contestant.turns, planned(how)))
            except Exception as error:
                changes = state.restore(quick)
                contestant.changes.add(changes)
                if changes:
                    reason = f"changes {changes.summary}, and then raises {line_of(error)}"
                    raise Refused(reason) from error
                raise
            contestant.changes.add(state.restore(quick))
        spent = self.clock() - start
        rest = state.restore(snapshot)
        if rest:
            self._find_culprit([self.contestants[h][0] for h in dict.fromkeys(handles)], rest)
        return {
            "blocks": [visited.wall for visited in visits],
            "cpu": [visited.cpu for visited in visits],
            "disturbed": [visited.disturbed for visited in visits],
            "spent": spent,
        }

    def _refresh_snapshot(self) -> state.Snapshot:
        """The state of the process as the harness leaves it to the next that is called.

        It is put back after each request, so that another look is only due where more modules have
        been loaded, which no mode is blamed for.
        """
        assert self.gate is not None
        if state.modules_loaded():
            self.gate.snapshot = state.snapshot()
        return self.gate.snapshot

    def _find_culprit(self, contestants: Sequence[Contestant], rest: state.Changes) -> None:
        """Calls each contestant once more to see which changes what."""
        if len(contestants) == 1:
            contestants[0].changes.add(rest)
            return
        for contestant in contestants:
            with self._watched(contestant):
                contestant.call(*contestant.arguments)
        explained = {what for c in contestants for what in c.changes.harmful + c.changes.harmless}
        unknown = [w for w in rest.harmful + rest.harmless if w not in explained]
        for contestant in contestants if unknown else ():
            contestant.changes.add(
                state.Changes(
                    harmless=[f"{w} (or another mode of its rounds does)" for w in unknown]
                )
            )

    def check(self, handle: int, fresh: list[int]) -> dict[str, Any]:
        """Checks a contestant once more, after it was timed."""
        self._refresh_snapshot()
        return self.changes[handle].noted(self._check(handle, fresh), "after timing: ")

    def _check(self, handle: int, fresh: list[int]) -> dict[str, Any]:
        contestant, _ = self.contestants[handle]
        contestant.gate.deadline = Deadline()
        if not contestant.slow and contestant.gate.products is None:
            contestant.gate.look_again(contestant.mode)
        try:
            # A slow call is checked on its inputs alone this time; fresh ones came before.
            finding = contestant.check([] if contestant.slow else fresh, again=False)
        except Unsupported as error:
            return {"status": "unsupported", "reason": message_of(error)}
        except Exception as error:
            failed = self.failure(error) | {"place": places.of_error(error)}
            placed = _placed(self._declared(contestant.mode), failed)
            return {"status": placed["status"], "reason": "after timing: " + placed["reason"]}
        if self.forked():
            return {"status": "failed", "reason": f"after timing: {FORKED}"}
        answer = {
            "status": "ok" if finding.passed else "wrong",
            "reason": finding.reason and "after timing: " + finding.reason,
            "error": finding.error,
            "ulps": finding.ulps,
        }
        return _placed(self._declared(contestant.mode), answer)

    def failure(self, error: Exception) -> dict[str, str]:
        """As `failures.failure`, with the limit where memory ran out under one: what was asked for
        last may be less."""
        found, gate = failure(error), self.gate
        limited = self.enforced and gate is not None and gate.problem.device.type == "cpu"
        if found["status"] == "out of memory" and limited:
            found["reason"] += f", more than was left of the limit of {size(self.memory_limit)}"
        return found

    def _declared(self, mode: str) -> Mode | None:
        assert self.gate is not None
        return registry.MODES.get((self.gate.problem.operator, mode))

    def trust(self, mode: str, handle: int, call: int, rehearse: bool) -> dict[str, Any]:
        """Builds a mode that passed the gate of another process, where a call took `call`
        nanoseconds: this process is too slow to check it again. Calls it once to `rehearse`."""
        if self.gate is None:
            raise Refused("no comparison is open")
        declared = registry.MODES[self.gate.problem.operator, mode]
        self._refresh_snapshot()
        changes = self.changes[handle] = Noted(function=self.gate.changes)
        built = self._built(declared, changes)
        contestant = self.gate.enter(mode, built, declared.leaves)
        contestant.changes = changes.calls
        self.contestants[handle] = (contestant, self.wall.planned(call))
        if rehearse:
            with self._watched(contestant):
                contestant.call(*contestant.arguments)
        return {}

    def read(self, handle: int, instruments: list[str]) -> dict[str, Any]:
        """The values that each instrument reads of a contestant, or the reason for none."""
        contestant, how = self.contestants[handle]
        values: dict[str, list[float]] = {}
        reasons: dict[str, str] = {}
        self._refresh_snapshot()
        for name in instruments:
            try:
                with self._watched(contestant):
                    values[name] = self.instruments[name].read(contestant, how.call)
            except Unreadable as error:
                reasons[name] = f"{error.status}: {error}"
            except Exception as error:
                failed = self.failure(error)
                reasons[name] = f"{failed['status']}: {failed['reason']}"
        return {"values": values, "reasons": reasons}

    def trace(self, handle: int) -> dict[str, Any]:
        """The operations that one call dispatches and the Python functions that it enters."""
        contestant, _ = self.contestants[handle]
        self._refresh_snapshot()
        with self._watched(contestant):
            return profiles.traced(contestant)

    def profile(self, handle: int) -> dict[str, Any]:
        """Under Callgrind: writes profiles, and answers the number of calls of each."""
        contestant, _ = self.contestants[handle]
        self._refresh_snapshot()
        with self._watched(contestant):
            return {"calls": profiles.write(contestant)}

    def slow(
        self, handle: int, share: float, spend: int, turns: int | None = None, repeats: int = 1
    ) -> dict[str, Any]:
        """For studies of the suite only: makes a contestant slower by a share of its own time.

        With `repeats` it is so many times as long besides, and its visits are planned for that.
        """
        from gradbench.worker.injection import Slowdown, calibrate, repeated, slowed

        contestant, how = self.contestants[handle]
        self._refresh_snapshot()
        if turns is None:
            slowdown = calibrate(self.wall, contestant.call, contestant.turns, how, share, spend)
        else:
            slowdown = Slowdown(turns, share, float(how.call))
        contestant.call = repeated(slowed(contestant.call, slowdown.turns), repeats)
        if repeats > 1:
            how = self.wall.planned(how.call * repeats)
            self.contestants[handle] = (contestant, how)
        return {**asdict(slowdown), "visit": asdict(how)}

    def curve(self, function: str, points: list[float]) -> dict[str, Any]:
        """An elementwise function at points, its derivative by reverse mode and by hand."""
        declared = registry.FUNCTIONS.get(function)
        if declared is None or "diagonal" not in declared.derivatives:
            raise Refused(f"there is no elementwise function {function!r} here")
        x = torch.tensor(points, dtype=torch.float64, requires_grad=True)
        with state.preserve(state.Changes()):
            value = declared.forward(x)
            (slope,) = torch.autograd.grad(value.sum(), x)
            by_hand = declared.derivatives["diagonal"](x.detach())
        found = {"value": value.detach(), "automatic": slope, "by_hand": by_hand}
        return {"formula": declared.formula, **{n: t.tolist() for n, t in found.items()}}

    def limits(self, device: str, threads: int, dtypes: list[str]) -> dict[str, Any]:
        """The limits of a device: see `gradbench.worker.limits`."""
        from gradbench.worker import limits

        return limits.measure(torch.device(device), threads, dtypes)

    def close(self) -> dict[str, Any]:
        self.contestants.clear()
        self.changes.clear()
        self.gate = None
        self.pass_time = 0
        if self.compiled and "torch._dynamo" in sys.modules:
            sys.modules["torch._dynamo"].reset()
            self.compiled = False
        # What survives a collection stays; frozen, it does not slow later ones.
        gc.collect()
        gc.freeze()
        return {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        kind = request.pop("op")
        known = {"hello", "ping", "load", "discover", "open", "prepare", "visit", "check", "close"}
        known |= {
            "estimate",
            "plan",
            "trust",
            "read",
            "trace",
            "profile",
            "slow",
            "curve",
            "limits",
        }
        if kind not in known:
            raise Refused(f"unknown request {kind!r}")
        return dict(getattr(self, kind)(**request))

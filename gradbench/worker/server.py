"""The measuring process: torch and the standard library, nothing else.

It answers requests over the wire that `core/process.py` makes of its standard streams. `runner/`
is the other side; docs/architecture.md describes every message. The process ends when its input
does, and with its driver.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from gradbench import __version__, state
from gradbench.core.cases import DOCUMENTS, TF32, Comparison, Offer, parse_size, size_label
from gradbench.core.process import STATE_LOST, Wire
from gradbench.core.text import line
from gradbench.core.units import size
from gradbench.modes.capability import device_lost, message_of, out_of_memory, unsupported_reason
from gradbench.problems import registry
from gradbench.problems.arguments import draw, pose
from gradbench.problems.mode import Mode, Unsupported
from gradbench.problems.operators import OPERATORS
from gradbench.worker.devices import Cuda, audit, flusher, set_tf32, synchronizer
from gradbench.worker.gate import SLOW, Contestant, Gate, TooSlow
from gradbench.worker.instruments import READERS
from gradbench.worker.instruments.instrument import Reader, Unreadable
from gradbench.worker.instruments.wall import Visit, WallTime, plan

PROTOCOL = 2

DEVICE_LOST = 70
"""The exit code of a process whose device can no longer be used in it."""


FORKED = "it forks, and the child comes back as if it were the measuring process"


class Refused(Exception):
    """A request that cannot be carried out; the message says why."""


def environment() -> dict[str, Any]:
    """What a time may depend on and only this process can tell."""
    facts: dict[str, Any] = {
        "gradbench": __version__,
        "torch": str(torch.__version__),
        "torch_git": torch.version.git_version,
        "torch_cuda": torch.version.cuda,
        "cpu_capability": _cpu_capability(),
        "mkl": torch.backends.mkl.is_available(),
        "python": platform.python_version(),
        "numpy": _version("numpy"),
        "malloc": os.environ.get("LD_PRELOAD", ""),
        "interop_threads": torch.get_num_interop_threads(),
        "pid": os.getpid(),
        "devices": ["cpu"],
    }
    if torch.cuda.is_available():
        facts["devices"] += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        facts["device_names"] = [
            torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
        ]
        # By its number a driver's tool may know another device than torch does.
        facts["device_uuids"] = {
            f"cuda:{i}": str(getattr(torch.cuda.get_device_properties(i), "uuid", ""))
            for i in range(torch.cuda.device_count())
        }
    return facts


def _cpu_capability() -> str:
    """The widest instructions that torch uses, as `AVX2`."""
    if hasattr(torch.backends, "cpu"):
        return str(torch.backends.cpu.get_cpu_capability())
    # Before torch 2.1 its description alone tells.
    _, _, told = torch.__config__.show().partition("CPU capability usage: ")
    return told.split("\n")[0].strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _line(error: BaseException) -> str:
    """An exception as one short line."""
    said = message_of(error)
    return line(f"{type(error).__name__}: {said}" if said.strip() else type(error).__name__)


def _where(error: BaseException) -> str:
    """The last lines of a traceback that lie outside torch and this package."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    beside = os.path.dirname(os.path.abspath(torch.__file__))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((here, beside, "<"))
    ]
    return "; ".join(f"{f.filename}:{f.lineno} {f.line}" for f in frames[-2:])


def _failure(error: Exception) -> dict[str, str]:
    """What an error makes of a case: its status, and the reason in one line.

    After one for want of memory the device is fit to go on with. After one that has broken the
    device's context this process is not: it ends, and the driver starts another.
    """
    if device_lost(error):
        print(_line(error), file=sys.stderr, flush=True)
        os._exit(DEVICE_LOST)
    asked = out_of_memory(error)
    if asked is None:
        return {"status": "failed", "reason": _line(error), "where": _where(error)}
    # The frames of the traceback keep what was allocated.
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return {"status": "out of memory", "reason": asked}


_COMPILING = ("threads ", "the recursion limit ", "sys.path")


@dataclass
class _Changes:
    """What a mode has changed in the process: its build, its calls, and the function under it."""

    build: state.Changes = field(default_factory=state.Changes)
    calls: state.Changes = field(default_factory=state.Changes)
    function: state.Changes = field(default_factory=state.Changes)
    compiles: bool = False

    def told(self, answer: dict[str, Any], when: str = "") -> dict[str, Any]:
        """The answer with a note of them; the status is `failed` where a call has left something
        on which results or times depend. docs/correctness.md gives the rule."""
        calls = self.calls
        if self.compiles:
            # What torch.compile does by itself is no mode's doing.
            other = [what for what in calls.harmless if not what.startswith(_COMPILING)]
            calls = state.Changes(calls.harmful, other)
        notes = []
        if self.build:
            notes.append(f"its build changes {self.build.summary}: put back before its calls")
        if calls.harmful and answer["status"] == "ok":
            what = state.summarize(calls.harmful)
            reason = f"{when}changes {what} and does not put it back"
            answer = {**answer, "status": "failed", "reason": reason}
            calls = state.Changes(harmless=calls.harmless)
        if calls:
            notes.append(f"its calls change {calls.summary}: put back after each")
        if self.function:
            notes.append(f"the function changes {self.function.summary}: put back")
        return {**answer, "note": "; ".join(notes)} if notes else answer


class Session:
    """The state of one worker: the open comparison and its contestants."""

    def __init__(
        self,
        memory_limit: int,
        clock: Any = time.perf_counter_ns,
        broken: Sequence[str] = (),
        forked: Callable[[], bool] = lambda: False,
    ) -> None:
        self.memory_limit = memory_limit
        self.broken = tuple(broken)
        self.forked = forked
        self.clock = clock
        self.wall = WallTime(clock)
        self.gate: Gate | None = None
        self.contestants: dict[int, tuple[Contestant, Visit]] = {}
        self.changes: dict[int, _Changes] = {}
        self.instruments: dict[str, Reader] = {name: reader() for name, reader in READERS.items()}
        self.compiled = False

    # Each method below that has a name in `answer` is one kind of request.

    def hello(self) -> dict[str, Any]:
        return {"protocol": PROTOCOL, "environment": environment()}

    def ping(self) -> dict[str, Any]:
        """Nothing: that this is the next answer tells the driver that there was none between."""
        return {}

    def discover(self) -> dict[str, Any]:
        offers = []
        for function in registry.FUNCTIONS.values():
            for operator in function.derivatives:
                modes = registry.modes_of(operator)
                offers.append(
                    asdict(
                        Offer(
                            operator=operator,
                            function=function.name,
                            document=function.document,
                            formula=function.formula,
                            derivative=function.derivative,
                            dtype=function.dtype,
                            example_size=size_label(function.example_size),
                            sizes=tuple(map(size_label, function.sizes)),
                            large_sizes=tuple(map(size_label, function.large_sizes)),
                            modes=tuple(m.name for m in modes if not m.opt_in),
                            opt_in=tuple(m.name for m in modes if m.opt_in),
                            size_names=tuple(function.example_size),
                            cuda=tuple(m.name for m in modes if m.cuda),
                            first=OPERATORS[operator].first,
                        )
                    )
                )
        modes_told = [
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
        return {
            "offers": offers,
            "modes": modes_told,
            "unavailable": unavailable,
            "broken": self.broken,
        }

    def open(self, comparison: str, salt: int, fresh: list[int]) -> dict[str, Any]:
        """Poses the problem: the timed arguments and the fresh sets of the numbers given."""
        if self.gate is not None:
            self.close()
        wanted = Comparison.parse(comparison)
        function = registry.FUNCTIONS.get(wanted.function)
        if function is None or wanted.operator not in function.derivatives:
            raise Refused(f"there is no {wanted.operator} of {wanted.function} here")
        place = wanted.place
        if not place.on_cpu and not torch.cuda.is_available():
            raise Refused(f"{wanted.device}: there is no CUDA device here")
        if place.on_cpu and wanted.dtype == TF32:
            raise Refused("the processor has no tf32")
        size = None if wanted.size == DOCUMENTS else parse_size(wanted.size)
        torch.set_num_threads(wanted.threads)
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
        self.gate.changes.add(changes)
        set_tf32(problem.device, problem.tf32)
        flush = flusher(problem.device) if place.cold else None
        self.wall = WallTime(self.clock, synchronizer(problem.device), flush)
        return {
            "outputs": problem.outputs,
            "coordinates": problem.coordinates,
            "result_bytes": problem.result_numel * problem.width,
            "argument_bytes": timed.bytes,
        }

    def prepare(
        self, mode: str, handle: int, warm: int, fresh: list[int], patience: int = 0
    ) -> dict[str, Any]:
        """Builds a mode, checks it and plans its visits; `warm` in nanoseconds, 0 only checks.

        A mode of which a call takes longer than `patience` nanoseconds is refused; 0 waits.
        """
        if self.gate is None:
            raise Refused("no comparison is open")
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
        changes = self.changes[handle] = _Changes(function=self.gate.changes, compiles=compiles)
        answer = self._prepare(declared, changes, handle, warm, fresh, patience)
        return changes.told(answer)

    def _prepare(
        self,
        declared: Mode,
        changes: _Changes,
        handle: int,
        warm: int,
        fresh: list[int],
        patience: int,
    ) -> dict[str, Any]:
        assert self.gate is not None
        try:
            call = self._built(declared, changes)
            refusal = self._refusal(declared)
            if refusal:
                return {"status": "refused", "reason": refusal}
            contestant = self.gate.enter(declared.name, call, declared.leaves)
            contestant.changes = changes.calls
            # Where nothing is timed there is no later check: everything is looked at now.
            finding = contestant.check(fresh, again=None if warm else True, patience=patience)
        except TooSlow as error:
            return {"status": "refused", "reason": str(error)}
        except Unsupported as error:
            return {"status": "unsupported", "reason": message_of(error)}
        except Exception as error:
            reason = unsupported_reason(error)
            if reason is not None:
                return {"status": "unsupported", "reason": reason}
            return _failure(error)
        if self.forked():
            # Called in a loop it would come back as ever more processes.
            return {"status": "failed", "reason": FORKED}
        evidence = {"error": finding.error, "ulps": finding.ulps}
        if not finding.passed:
            return {"status": "wrong", "reason": finding.reason, **evidence}
        self.compiled |= declared.opt_in
        if not warm or changes.calls.harmful:
            return {"status": "ok", **evidence}
        with self._watched(contestant):
            if contestant.fastest > SLOW:
                # Being checked has warmed it.
                how = plan(contestant.fastest)
            else:
                how = self.wall.warm(contestant.call, contestant.turns, warm)
            if (reason := self._untrusted(contestant)) is not None:
                return {"status": "failed", "reason": reason}
        self.contestants[handle] = (contestant, how)
        return {"status": "ok", "visit": asdict(how), **evidence}

    def _built(self, declared: Mode, changes: _Changes) -> Callable[..., Any]:
        """What a mode's builder gives; what it changes in the process is put back."""
        assert self.gate is not None
        try:
            return declared.build(self.gate.problem)
        finally:
            changes.build.add(state.restore(self.gate.snapshot))

    @contextlib.contextmanager
    def _watched(self, contestant: Contestant) -> Iterator[None]:
        """Puts back what calls of a contestant change in the process, and keeps what that was."""
        snapshot = contestant.gate.snapshot
        try:
            yield
        finally:
            contestant.changes.add(state.restore(snapshot))

    def _untrusted(self, contestant: Contestant) -> str | None:
        """Why the clock cannot time it, on a device that works while the host goes on."""
        assert self.gate is not None
        device = self.gate.problem.device
        if device.type == "cpu":
            return None
        waits = self.wall.synchronize
        made = (contestant.call, contestant.arguments)
        return audit(Cuda(), device, waits, self.clock, *made) or None

    def _refusal(self, declared: Mode) -> str:
        """Why the mode must not be called, for want of memory; empty where it may be."""
        assert self.gate is not None
        needed = self.gate.bytes_needed(declared.numbers_at_peak(self.gate.problem))
        if needed <= self.memory_limit:
            return ""
        return f"would need about {size(needed)}, more than the limit of {size(self.memory_limit)}"

    def visit(self, handles: list[int]) -> dict[str, Any]:
        """Visits in the order given; nanoseconds of every sub-block, and of all visits.

        After each, the state of the process is put back, as far as it takes no time to look at.
        What a visit changes is told by `check`.
        """
        blocks = []
        snapshot = self._refresh_snapshot()
        quick = snapshot[: len(state.QUICK)]
        start = self.clock()
        for handle in handles:
            contestant, how = self.contestants[handle]
            try:
                blocks.append(self.wall.visit(contestant.call, contestant.turns, how))
            except Exception as error:
                changes = state.restore(quick)
                contestant.changes.add(changes)
                if changes:
                    reason = f"changes {changes.summary}, and then raises {_line(error)}"
                    raise Refused(reason) from error
                raise
            contestant.changes.add(state.restore(quick))
        spent = self.clock() - start
        rest = state.restore(snapshot)
        if rest:
            self._find_culprit([self.contestants[h][0] for h in dict.fromkeys(handles)], rest)
        return {"blocks": blocks, "spent": spent}

    def _refresh_snapshot(self) -> state.Snapshot:
        """The state of the process that the next call starts from.

        It is restored after each request, so a new snapshot is due only after more modules were
        loaded, which no mode is blamed for.
        """
        assert self.gate is not None
        if state.modules_loaded():
            self.gate.snapshot = state.snapshot()
        return self.gate.snapshot

    def _find_culprit(self, contestants: Sequence[Contestant], rest: state.Changes) -> None:
        """Calls each contestant once more to see whose visit has changed what."""
        if len(contestants) == 1:
            contestants[0].changes.add(rest)
            return
        for contestant in contestants:
            with self._watched(contestant):
                contestant.call(*contestant.arguments)
        told = {what for c in contestants for what in c.changes.harmful + c.changes.harmless}
        unknown = [w for w in rest.harmful + rest.harmless if w not in told]
        for contestant in contestants if unknown else ():
            suspected = [f"{w} (or another mode of its rounds does)" for w in unknown]
            contestant.changes.add(state.Changes(harmless=suspected))

    def check(self, handle: int, fresh: list[int]) -> dict[str, Any]:
        """Checks a contestant once more, after it was timed."""
        self._refresh_snapshot()
        return self.changes[handle].told(self._check(handle, fresh), "after timing: ")

    def _check(self, handle: int, fresh: list[int]) -> dict[str, Any]:
        contestant, _ = self.contestants[handle]
        try:
            # A slow call is checked on its inputs alone this time; fresh ones came before.
            finding = contestant.check(fresh if contestant.fastest < SLOW else [], again=False)
        except Unsupported as error:
            return {"status": "unsupported", "reason": message_of(error)}
        except Exception as error:
            failure = _failure(error)
            return {"status": failure["status"], "reason": "after timing: " + failure["reason"]}
        if self.forked():
            return {"status": "failed", "reason": f"after timing: {FORKED}"}
        return {
            "status": "ok" if finding.passed else "wrong",
            "reason": finding.reason and "after timing: " + finding.reason,
            "error": finding.error,
            "ulps": finding.ulps,
        }

    def trust(self, mode: str, handle: int, call: int, rehearse: bool) -> dict[str, Any]:
        """Builds a mode that passed the gate of another process, where a call took so many
        nanoseconds: this one is too slow to check it again. Calls it once to rehearse."""
        if self.gate is None:
            raise Refused("no comparison is open")
        declared = registry.MODES[self.gate.problem.operator, mode]
        self._refresh_snapshot()
        changes = self.changes[handle] = _Changes(function=self.gate.changes)
        built = self._built(declared, changes)
        contestant = self.gate.enter(mode, built, declared.leaves)
        contestant.changes = changes.calls
        self.contestants[handle] = (contestant, plan(call))
        if rehearse:
            with self._watched(contestant):
                contestant.call(*contestant.arguments)
        return {}

    def read(self, handle: int, instruments: list[str]) -> dict[str, Any]:
        """What each instrument reads of a contestant, or the reason why it does not."""
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
                failure = _failure(error)
                reasons[name] = f"{failure['status']}: {failure['reason']}"
        return {"values": values, "reasons": reasons}

    def slow(
        self, handle: int, share: float, spend: int, turns: int | None = None
    ) -> dict[str, Any]:
        """For studies of the suite only: makes a contestant slower by a share of its own time."""
        from gradbench.worker.injection import Slowdown, calibrate, slowed

        contestant, how = self.contestants[handle]
        self._refresh_snapshot()
        if turns is None:
            slowdown = calibrate(self.wall, contestant.call, contestant.turns, how, share, spend)
        else:
            slowdown = Slowdown(turns, share, float(how.call))
        contestant.call = slowed(contestant.call, slowdown.turns)
        return asdict(slowdown)

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
        """What a device can do at most: see `gradbench.worker.limits`."""
        from gradbench.worker import limits

        return limits.measure(torch.device(device), threads, dtypes)

    def close(self) -> dict[str, Any]:
        self.contestants.clear()
        self.changes.clear()
        self.gate = None
        if self.compiled and "torch._dynamo" in sys.modules:
            sys.modules["torch._dynamo"].reset()
            self.compiled = False
        # What survives a collection stays; frozen, it costs later ones nothing.
        gc.collect()
        gc.freeze()
        return {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        kind = request.pop("op")
        known = {"hello", "ping", "discover", "open", "prepare", "visit", "check", "close"}
        known |= {"trust", "read", "slow", "curve", "limits"}
        if kind not in known:
            raise Refused(f"unknown request {kind!r}")
        answer: dict[str, Any] = getattr(self, kind)(**request)
        return answer


def serve(wire: Wire, session: Session) -> None:
    """Answers requests until the input ends."""
    for request in wire.requests():
        try:
            answer = {"ok": True, **session.answer(request)}
        except Refused as error:
            answer = {"ok": False, "reason": str(error)}
        except state.StateLost as error:
            os.write(2, f"{error}\n".encode())
            os._exit(STATE_LOST)
        except Exception as error:
            answer = {"ok": False, **_failure(error)}
        wire.answer(answer)


def main(wire: Wire) -> None:
    parser = argparse.ArgumentParser(prog="python -m gradbench.worker")
    parser.add_argument("--memory-limit", type=int, default=4 << 30)
    parser.add_argument("--from", dest="files", action="append", default=[])
    options = parser.parse_args()
    wire.require_driver()
    torch.set_num_interop_threads(1)
    torch.set_num_threads(1)
    broken = registry.load()
    path = ""
    try:
        for path in options.files:
            wire.require_driver()
            broken += registry.load_file(path)
    except BaseException as error:
        reason = {"ok": False, "reason": f"{path}: {_line(error)}", "where": _where(error)}
        for _ in wire.requests():
            wire.answer(reason)
        return
    wire.require_driver()
    session = Session(options.memory_limit, broken=broken, forked=wire.forked)
    session.close()
    gc.disable()
    serve(wire, session)

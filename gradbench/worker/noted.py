"""What a mode changes in the process, as a note on its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradbench import state

_COMPILING = ("threads ", "the recursion limit ", "sys.path")


@dataclass
class Noted:
    """The changes to the process by a mode: by its build, its calls, and its function."""

    build: state.Changes = field(default_factory=state.Changes)
    calls: state.Changes = field(default_factory=state.Changes)
    function: state.Changes = field(default_factory=state.Changes)
    compiles: bool = False
    left_out: bool = False
    """Whether there was no time for all of its checks."""

    def noted(self, answer: dict[str, Any], when: str = "") -> dict[str, Any]:
        """The answer with a note on them; its status is `failed` if a call changed something on
        which results or times depend. docs/correctness.md has the rule."""
        calls = self.calls
        if self.compiles:
            # torch.compile changes these itself.
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
        if self.left_out:
            notes.append("checked at fewer inputs: there was no time for others")
        if self.function:
            notes.append(f"the function changes {self.function.summary}: put back")
        return {**answer, "note": "; ".join(notes)} if notes else answer

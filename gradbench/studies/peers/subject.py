"""The worker's side of every peer: the suite's own gated callables, for another tool to time.

Each tool gets the same callables as gradbench does, with the same turns of injected slowdown, in
a process with one thread.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from gradbench.problems import registry
from gradbench.worker.injection import repeated, slowed
from gradbench.worker.session import Session

VARIABLE = "GRADBENCH_PEER_SUBJECT"
"""The environment variable that tells a tool's own processes what to time, as JSON."""


@cache
def load(files: tuple[str, ...]) -> None:
    """One thread, and the suite's functions with those of the user's files."""
    torch.set_num_interop_threads(1)
    torch.set_num_threads(1)
    registry.load()
    for path in files:
        registry.load_file(path)


class Subjects:
    """The callables of one case."""

    def __init__(self, comparison: str, mode: str, seed: int) -> None:
        self.mode = mode
        self.session = Session(4 << 30)
        self.session.open(comparison, seed, [1])
        self.handle = 0

    def make(self, turns: int, repeats: int = 1) -> Callable[[], Any]:
        """A fresh instance of the mode, gated, with so many turns in front of it, repeated."""
        self.handle += 1
        answer = self.session.prepare(self.mode, self.handle, 1_000_000, [0])
        if answer["status"] != "ok":
            raise RuntimeError(f"{self.mode}: {answer['status']}: {answer.get('reason', '')}")
        contestant, _ = self.session.contestants[self.handle]
        return partial(repeated(slowed(contestant.call, turns), repeats), *contestant.arguments)


def arms(asked: dict[str, Any]) -> list[tuple[int, int]]:
    """The turns of the loop before each arm's call, and how often the call is repeated."""
    turns: list[int] = asked["turns"]
    return list(zip(turns, asked.get("repeats") or [1] * len(turns)))


def from_environment() -> tuple[Subjects, dict[str, Any]]:
    """What the driver asks this tool's process to time."""
    asked = json.loads(os.environ[VARIABLE])
    load(tuple(asked["files"]))
    gc.collect()
    return Subjects(asked["comparison"], asked["mode"], asked["seed"]), asked

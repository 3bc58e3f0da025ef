"""Measuring processes that start while the function is looked at: importing torch takes seconds."""

from __future__ import annotations

import time

from gradbench.advise.question import Question, Refusal
from gradbench.core.deadline import Deadline
from gradbench.runner import machine
from gradbench.runner.wire import (
    Worker,
    WorkerDied,
    WorkerError,
    WorkerLate,
    WorkerOptions,
    WorkerRefused,
    WorkerTimeout,
)
from gradbench.runner.workers import Discovery, discover, discovered

TWO = 8.0
"""The budget in seconds from which on a second process is started."""
SHORT = 15.0
"""The budget in seconds below which none starts on a busy machine while the process that looks at
the function imports torch: that would take twice as long, and nothing is known before."""

QUICK = 0.15
"""The part of the budget that starting the first may take for a second to be started."""

WAIT = 0.2
"""The part of the time left that the second is waited for."""


class Spares:
    """Up to two processes without files, which load theirs when it is known what to measure. Use it
    as a context manager."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.workers: list[Worker] = []
        self._greeted: list[Worker] = []
        self._began = time.perf_counter()

    def start(self) -> None:
        question = self.question
        options = WorkerOptions(
            memory_limit=question.memory_limit,
            start_timeout=max(question.budget, 1.0),
            rehearse=question.budget >= TWO,
        )
        self.workers.append(Worker(options, greet=False))

    def start_first(self) -> None:
        """Starts one at once, unless it has to wait for `start_next`."""
        if self.question.budget >= SHORT or not machine.is_busy():
            self.start()

    def start_next(self) -> None:
        """Starts another where that takes nothing from the first, and there is time to use it."""
        if not self.workers:
            self.start()
            return
        elapsed = time.perf_counter() - self._began
        enough = self.question.budget >= TWO and len(machine.usable_cores()) > 1
        # On a busy machine the first would wait for the second.
        enough = enough and elapsed < QUICK * self.question.budget
        if enough and len(self.workers) == 1:
            self.start()

    def require_device(self) -> None:
        """Raises Refusal where the device asked for is not there."""
        if not self.workers:
            self.start()
        self._greet(self.workers[0], Deadline())
        there = self.workers[0].environment["devices"]
        device = self.question.device
        if device not in there:
            torch = self.workers[0].environment["torch"]
            raise Refusal(f"--device {device}: there are {', '.join(there)} with torch {torch}")

    def loaded(self, files: tuple[str, ...], deadline: Deadline) -> Discovery | None:
        """What the processes offer once they have loaded the files; None if the time is up before.

        Raises Refusal where the files cannot be loaded, WorkerError where no process starts.
        """
        ready: list[Worker] = []
        discovery = None
        for worker in self.workers:
            try:
                self._greet(worker, deadline.share(WAIT) if ready else deadline)
                worker.request("load", deadline.within(worker.options.start_timeout), files=files)
                discovery = discovery or discovered(worker, deadline.within(self.question.timeout))
                ready.append(worker)
            except WorkerRefused as error:
                raise Refusal(str(error)) from error
            except (WorkerDied, WorkerTimeout, WorkerLate):
                worker.__exit__()
        self.workers = ready
        if not ready and not deadline.over:
            # They were ended from outside.
            limit = self.question.memory_limit
            start_timeout = max(deadline.left, 1.0)
            return discover(
                WorkerOptions(files=files, memory_limit=limit, start_timeout=start_timeout)
            )
        return discovery

    def _greet(self, worker: Worker, deadline: Deadline) -> None:
        if worker in self._greeted:
            return
        try:
            worker.greet(deadline.left)
        except WorkerError:
            if deadline.over:
                raise WorkerLate("it did not start in time") from None
            raise
        self._greeted.append(worker)

    def taken(self) -> list[Worker]:
        """The processes that are ready, which are the caller's from now on."""
        ready, self.workers = self.workers, []
        return ready

    def __enter__(self) -> Spares:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self.workers:
            worker.__exit__()

"""Other ways recorded in a CUDA graph and replayed: one launch instead of one for each kernel.

What takes a call's time where the device waits for the host. A graph reads and writes fixed memory,
so each call copies its inputs in and its result out; both are timed. Measured only when asked for,
as recording takes time, and only on CUDA devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from gradbench.core.operators import OPERATORS
from gradbench.modes import forward_mode, manual, reverse, second_order, transforms
from gradbench.modes.capability import not_recordable
from gradbench.modes.common import functional_step
from gradbench.problems.function import Tensors, as_tuple
from gradbench.problems.mode import Call, Unsupported, jacobian_by_columns, jacobian_by_rows
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode

NEEDS = ("torch.cuda.CUDAGraph",)

REHEARSALS = 3
"""Calls before recording: what libraries set up on first use cannot be recorded."""


class Recorder(Protocol):
    """Records what a call does on the device; replaced in tests."""

    def record(self, call: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], None]]:
        """The memory that the result is in, and what does all of it again."""


class CudaGraphs:
    """CUDA graphs, through torch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def record(self, call: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], None]]:
        with torch.cuda.device(self.device):
            # Apart from the default stream, as torch's notes on CUDA graphs have it.
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(REHEARSALS):
                    call()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=side):
                    result = call()
            except RuntimeError as error:
                reason = not_recordable(error)
                if reason is None:
                    raise
                self._require_usable()
                raise Unsupported(reason) from error
        return result, graph.replay

    def _require_usable(self) -> None:
        """Raises what ends this process where a recording that failed has spoilt the device."""
        try:
            torch.cuda.synchronize()
            torch.empty(1, device=self.device).zero_().item()
        except RuntimeError as error:
            line = str(error).partition("\n")[0]
            raise RuntimeError(f"CUDA error: unusable after recording failed: {line}") from error


def recorder(problem: Problem) -> Recorder:
    """What records on the problem's device. Raises Unsupported on a processor."""
    if problem.device.type != "cuda":
        raise Unsupported("CUDA graphs are recorded on CUDA devices")
    return CudaGraphs(problem.device)


def replayed(problem: Problem, call: Call, leaves: bool = False) -> Call:
    """The call as a graph, recorded on first use; `leaves`: its inputs have to require grad."""
    records = recorder(problem)
    fixed: Tensors = ()
    result: Tensors = ()
    replay: Callable[[], None] | None = None

    def start(inputs: Tensors, seed: tuple[Any, ...]) -> None:
        nonlocal fixed, result, replay
        mine = tuple(x.detach().clone() for x in inputs)
        if leaves:
            for x in mine[: problem.differentiated]:
                x.requires_grad_()
        seeds = tuple(
            tuple(x.clone() for x in s) if isinstance(s, tuple) else s.clone() for s in seed
        )
        result, replay = records.record(
            lambda: tuple(block.detach() for block in as_tuple(call(mine, *seeds)))
        )
        # Written into without a trace in autograd, whether they require grad or not.
        fixed = tuple(x.detach() for x in mine) + flattened(seeds)

    def whole(inputs: Tensors, *seed: Any) -> Tensors:
        if replay is None:
            start(inputs, seed)
        assert replay is not None
        for place, value in zip(fixed, inputs + flattened(seed)):
            place.copy_(value)
        replay()
        return tuple(block.clone() for block in result)

    return whole


def flattened(seed: tuple[Any, ...]) -> Tensors:
    """The tensors of a seed: none, one, or a tuple of tangents."""
    return tuple(x for s in seed for x in as_tuple(s))


@mode(*OPERATORS, by_hand=True, opt_in=True, cuda=True, needs=NEEDS)
def graphed_manual(problem: Problem) -> Call:
    """The analytic derivative, replayed as a CUDA graph"""
    return replayed(problem, manual.manual(problem))


@mode("derivative", "gradient", "vjp", opt_in=True, cuda=True, needs=NEEDS)
def graphed_grad(problem: Problem) -> Call:
    """`autograd.grad`, replayed as a CUDA graph"""
    return replayed(problem, reverse.grad(problem), leaves=True)


@mode("jacobian", "batch_jacobian", opt_in=True, cuda=True, needs=NEEDS, memory=jacobian_by_rows)
def graphed_loop_grad(problem: Problem) -> Call:
    """The loop of `autograd.grad` over the outputs, replayed as a CUDA graph"""
    return replayed(problem, reverse.loop_grad(problem), leaves=True)


@mode(
    "jacobian",
    opt_in=True,
    cuda=True,
    needs=(*NEEDS, "torch.func.jacrev"),
    memory=jacobian_by_rows,
)
def graphed_jacrev(problem: Problem) -> Call:
    """`torch.func.jacrev`, replayed as a CUDA graph"""
    return replayed(problem, transforms.jacrev(problem))


@mode(
    "batch_jacobian",
    opt_in=True,
    cuda=True,
    needs=(*NEEDS, "torch.func.vmap", "torch.func.jacrev"),
)
def graphed_vmap_jacrev(problem: Problem) -> Call:
    """`vmap(jacrev)` of the function of one sample, replayed as a CUDA graph"""
    return replayed(problem, transforms.vmap_jacrev(problem))


@mode("diagonal", opt_in=True, cuda=True, needs=NEEDS)
def graphed_ones_grad(problem: Problem) -> Call:
    """`autograd.grad` with a seed of ones, replayed as a CUDA graph"""
    return replayed(problem, reverse.ones_grad(problem), leaves=True)


@mode("vjp_sum", opt_in=True, cuda=True, needs=NEEDS)
def graphed_summed_grad(problem: Problem) -> Call:
    """`autograd.grad` with the sum of the seeds, replayed as a CUDA graph"""
    return replayed(problem, reverse.summed_grad(problem), leaves=True)


@mode("jvp", opt_in=True, cuda=True, needs=NEEDS)
def graphed_dual(problem: Problem) -> Call:
    """Dual numbers, replayed as a CUDA graph"""
    return replayed(problem, forward_mode.dual_numbers(problem))


@mode("hessian", "batch_hessian", opt_in=True, cuda=True, needs=NEEDS, memory=jacobian_by_columns)
def graphed_grad_twice(problem: Problem) -> Call:
    """`autograd.grad` of the gradient in a loop, replayed as a CUDA graph"""
    return replayed(problem, second_order.grad_twice(problem), leaves=True)


@mode("hvp", "vhp", name="graphed_grad_twice", opt_in=True, cuda=True, needs=NEEDS)
def graphed_product(problem: Problem) -> Call:
    """`autograd.grad` of the gradient with the tangent as seed, replayed as a CUDA graph"""
    return replayed(problem, second_order.product_by_grad_twice(problem), leaves=True)


@mode("training_step", opt_in=True, cuda=True, needs=(*NEEDS, "torch.func.grad"))
def graphed_step(problem: Problem) -> Call:
    """`torch.func.grad` and the update written out, replayed together as a CUDA graph"""
    return replayed(problem, functional_step(problem))

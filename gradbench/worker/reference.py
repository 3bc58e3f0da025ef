"""The reference for a user's function: reverse mode in float64, with its evidence."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _python_dispatch as python_dispatch

from gradbench.problems.function import Formula, Tensors
from gradbench.worker.rounding import Rounding
from gradbench.worker.samples import PerSample
from gradbench.worker.urgency import Late, require_time

if TYPE_CHECKING:
    from gradbench.worker.subject import Subject

AGREEMENT = 1e-9
"""How far a structured derivative's product may be from the pullback, in float64, relative to its
largest number."""

NUMBERS = 1 << 21
"""The most numbers of one intermediate result that passes in a batch may take."""

FORWARD = 3
"""A dense jacobian is computed by columns where there are so many times fewer of them than rows."""


class Trust:
    """Remembers whether what is only tried, such as a structure or forward mode, agreed with
    reverse mode.

    Under Monte Carlo arithmetic (`gradbench.worker.rounding`) nothing agrees to the last places:
    what was found before, in plain arithmetic, holds there.
    """

    def __init__(self) -> None:
        self.found: dict[str, bool] = {}

    def agrees(self, name: str, check: Callable[[], bool]) -> bool:
        modes = python_dispatch._get_current_dispatch_mode_stack()
        if name not in self.found or not any(isinstance(mode, Rounding) for mode in modes):
            self.found[name] = check()
        return self.found[name]


def _leaves(subject: Subject, inputs: Sequence[Tensor]) -> tuple[Tensors, Tensor]:
    """Leaves of a graph in place of the differentiated inputs, and the value with its graph."""
    n = subject.differentiated
    wrt = tuple(x.detach().clone().requires_grad_() for x in inputs[:n])
    return wrt, subject.forward(*wrt, *inputs[n:])


def pullback(subject: Subject, seed: Tensor, *inputs: Tensor) -> Tensors:
    """The seed, of the value's shape, times the jacobian, by one pass in reverse mode.

    A function that has a forward mode only takes a pass for each coordinate.
    """
    if subject.manner.forward_only:
        wrt = inputs[: subject.differentiated]
        blocks = _columns(subject, inputs, NUMBERS)
        return tuple((seed.reshape(-1) @ b).reshape(x.shape) for b, x in zip(blocks, wrt))
    with torch.enable_grad():
        wrt, y = _leaves(subject, inputs)
        if not y.requires_grad:
            return tuple(torch.zeros_like(x) for x in wrt)
        return _filled(torch.autograd.grad(y, wrt, seed, allow_unused=True), wrt)


def pushforward(subject: Subject, tangents: Tensors, *inputs: Tensor) -> Tensor:
    """The jacobian times the tangents, one for each differentiated input, in forward mode.

    Raises what the function raises there: not every function has a forward mode.
    """
    y, pushed = value_and_tangent(subject, tangents, *inputs)
    return torch.zeros_like(y) if pushed is None else pushed.detach().clone()


def value_and_tangent(
    subject: Subject, tangents: Tensors, *inputs: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The value and its tangent in forward mode; None where no tangent reaches the value."""
    n = subject.differentiated
    with torch.enable_grad(), forward_ad.dual_level():
        duals = [forward_ad.make_dual(x.detach(), t) for x, t in zip(inputs[:n], tangents)]
        dual = forward_ad.unpack_dual(subject.forward(*duals, *inputs[n:]))
        return dual.primal, dual.tangent


def gradients(subject: Subject, seed: Tensor | None, *inputs: Tensor) -> tuple[Tensors, Tensors]:
    """Leaves, and the gradient of the value times the seed with its graph."""
    wrt, y = _leaves(subject, inputs)
    grads = torch.autograd.grad(y, wrt, seed, create_graph=True, allow_unused=True)
    return wrt, _filled(grads, wrt)


def hessian_product(
    subject: Subject, tangents: Tensors, *inputs: Tensor, seed: Tensor | None = None
) -> Tensors:
    """The hessian of a scalar value times the tangents, by reverse mode twice.

    With a seed of the value's shape, that of the sum of the values times the seed.
    """
    with torch.enable_grad():
        wrt, grads = gradients(subject, seed, *inputs)
        pairs = [(g, t) for g, t in zip(grads, tangents) if g.requires_grad]
        if not pairs:
            return tuple(torch.zeros_like(x) for x in wrt)
        first, seeds = zip(*pairs)
        return _filled(torch.autograd.grad(first, wrt, seeds, allow_unused=True), wrt)


def hessian(subject: Subject, *inputs: Tensor, seed: Tensor | None = None) -> Tensors:
    """The blocks of the value's hessians, row by row, of shape (y.shape + x.shape + z.shape).

    With a seed of the value's shape, that of the sum of the values times the seed.
    """
    with torch.enable_grad():
        wrt, y = _leaves(subject, inputs)
        y = y if seed is None else (y * seed).sum()
        each = [_hessian_of_one(one, wrt) for one in y.reshape(-1)]
    return tuple(torch.stack(b).reshape(y.shape + b[0].shape) for b in zip(*each))


def _hessian_of_one(y: Tensor, wrt: Tensors) -> Tensors:
    blocks: list[Tensor] = []
    grads: Tensors = tuple(torch.zeros_like(x) for x in wrt)
    if y.requires_grad:
        grads = _filled(torch.autograd.grad(y, wrt, create_graph=True, allow_unused=True), wrt)
    for g in grads:
        blocks += (b.reshape(g.shape + x.shape) for b, x in zip(_dense_rows(g, wrt), wrt))
    return tuple(blocks)


def rows(subject: Subject, *inputs: Tensor, trust: Trust | None = None) -> tuple[Tensor, Tensors]:
    """The value y, and dense jacobian blocks of shape (y.numel(), x.numel()).

    By reverse mode, or by forward mode where that takes far fewer passes and a random seed shows
    that it agrees with reverse mode. Rounding apart they are exact where every formula is right.
    """
    if subject.manner.forward_only:
        return subject.forward(*inputs).detach(), _columns(subject, inputs, NUMBERS)
    trust = trust or Trust()
    with torch.enable_grad():
        wrt, y = _leaves(subject, inputs)
        largest = _largest(y)
        if FORWARD * sum(x.numel() for x in wrt) < y.numel() and trust.found.get("columns", True):
            blocks = tried(lambda: _columns(subject, inputs, largest))
            if blocks and trust.agrees("columns", lambda: _explains(blocks, y, wrt)):
                return y.detach(), blocks
        return y.detach(), _dense_rows(y, wrt)


def tried(call: Callable[[], Tensors]) -> Tensors:
    """What the call returns; nothing where it raises."""
    try:
        return call()
    except Late:
        raise
    except Exception:
        return ()


def _explains(blocks: Tensors, y: Tensor, wrt: Tensors) -> bool:
    """Whether a random seed pulls back through a graph what dense blocks say."""
    seed = random_seed(y)
    try:
        pulled = torch.autograd.grad(y, wrt, seed, retain_graph=True, allow_unused=True)
    except RuntimeError:
        return False
    flat = seed.reshape(-1)
    return all(
        bool(((flat @ b - w.reshape(-1)).abs() <= AGREEMENT * (flat.abs() @ b.abs())).all())
        for b, w in zip(blocks, _filled(pulled, wrt))
    )


def random_seed(y: Tensor) -> Tensor:
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)


def _chunks(total: int, numbers: int) -> Iterator[tuple[int, int]]:
    """The first and the last of the passes in each batch, where a pass takes so many numbers.

    Raises Late where the time is up."""
    size = max(1, NUMBERS // max(1, numbers))
    for start in range(0, total, size):
        require_time()
        yield start, min(total, start + size)


def units(start: int, end: int, like: Tensor) -> Tensor:
    """Seeds, or tangents, of a one each, of shape (end - start, *like.shape)."""
    units = like.new_zeros(end - start, like.numel())
    units[torch.arange(end - start), torch.arange(start, end)] = 1.0
    return units.reshape(-1, *like.shape)


def _dense_rows(y: Tensor, wrt: Tensors) -> Tensors:
    """The derivative of a value with a graph, blocks of shape (y.numel(), x.numel())."""
    blocks = tuple(x.new_zeros(y.numel(), x.numel()) for x in wrt)
    for start, end, pulled in row_batches(y, wrt):
        for block, g in zip(blocks, pulled):
            block[start:end] = g.detach().reshape(end - start, -1)
    return blocks


def row_batches(y: Tensor, wrt: Tensors, samples: int = 1) -> Iterator[tuple[int, int, Tensors]]:
    """Rows of the derivative of a value with a graph, of shape (rows, *x.shape), by batches.

    Where the value is a batch of `samples`, a row is that of each sample's number, added up.
    """
    if not y.requires_grad:
        return
    batched = True
    each = y.reshape(samples, -1)[0]
    for start, end in _chunks(each.numel(), _largest(y)):
        seeds = units(start, end, each)[:, None].expand(-1, samples, -1).reshape(-1, *y.shape)
        like = tuple(x.expand(end - start, *x.shape) for x in wrt)
        if batched:
            try:
                # Far faster than one by one, where vmap can.
                pulled = torch.autograd.grad(
                    y, wrt, seeds, retain_graph=True, is_grads_batched=True, allow_unused=True
                )
                yield start, end, _filled(pulled, like)
                continue
            except RuntimeError:
                batched = False
        yield start, end, tuple(torch.stack(c) for c in zip(*_one_by_one(y, wrt, seeds)))


def _one_by_one(y: Tensor, wrt: Tensors, seeds: Tensor) -> Iterator[Tensors]:
    """What each seed pulls back."""
    for seed in seeds:
        require_time()
        pulled = torch.autograd.grad(y, wrt, seed, retain_graph=True, allow_unused=True)
        yield _filled(pulled, wrt)


def _columns(subject: Subject, inputs: Sequence[Tensor], numbers: int) -> Tensors:
    """The jacobian by forward mode, blocks of shape (outputs, x.numel()).

    `numbers` are the most of an intermediate result. Raises what the function raises there.
    """
    # Without grad mode, what is written in place into a view has no tangent in its base.
    with torch.enable_grad():
        return _columns_by_forward_mode(subject, inputs, numbers)


def _columns_by_forward_mode(subject: Subject, inputs: Sequence[Tensor], numbers: int) -> Tensors:
    n = subject.differentiated
    wrt, rest = tuple(x.detach() for x in inputs[:n]), inputs[n:]

    def push(*tangents: Tensor) -> Tensor:
        found: Tensor = torch.func.jvp(lambda *w: subject.forward(*w, *rest), wrt, tangents)[1]
        return found

    blocks = []
    for number, x in enumerate(wrt):
        parts = []
        for start, end in _chunks(x.numel(), numbers):
            tangents = [z.new_zeros(end - start, *z.shape) for z in wrt]
            tangents[number] = units(start, end, x)
            try:
                pushed = torch.func.vmap(push)(*tangents)
            except Late:
                raise
            except Exception:
                pushed = torch.stack(list(_pushed(subject, zip(*tangents), inputs)))
            parts.append(pushed.detach().reshape(end - start, -1))
        if not parts:
            outputs = subject.forward(*inputs).numel()
            parts.append(x.new_zeros(0, outputs))
        blocks.append(torch.cat(parts).T.contiguous())
    return tuple(blocks)


def _pushed(
    subject: Subject, tangents: Iterable[Tensors], inputs: Sequence[Tensor]
) -> Iterator[Tensor]:
    """The jacobian times each of the tangents, one after the other."""
    for tangent in tangents:
        require_time()
        yield pushforward(subject, tangent, *inputs)


def nodes(y: Tensor, most: int = 100_000) -> Iterator[Any]:
    """The nodes of the graph above a value."""
    waiting, seen = [y.grad_fn], {y.grad_fn}
    while waiting and len(seen) < most:
        node = waiting.pop()
        if node is None:
            continue
        yield node
        for before, _ in node.next_functions:
            if before not in seen:
                seen.add(before)
                waiting.append(before)


def _largest(y: Tensor) -> int:
    """The most numbers of an intermediate result of a value with a graph."""
    largest = y.numel()
    for node in nodes(y):
        # Not on nodes of functions of the user's own, and not before torch 2.1.
        for result in getattr(node, "_input_metadata", ()):
            with contextlib.suppress(RuntimeError):
                largest = max(largest, math.prod(result.shape))
    return largest


def _filled(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensors:
    """The gradients, with zeros for an input that the value does not depend on."""
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(grads, like))


def agrees(product: Tensors, wanted: Tensors) -> bool:
    """Whether a structure explains what a random seed pulls back."""
    return all(
        bool(((p - w).abs() <= AGREEMENT * w.abs().max()).all()) for p, w in zip(product, wanted)
    )


def _matches(subject: Subject, pushed: Tensor, tangents: Tensors, inputs: Sequence[Tensor]) -> bool:
    """Whether forward mode is the transpose of reverse mode, by a random seed."""
    seed = random_seed(pushed)
    products = [p * t for p, t in zip(pullback(subject, seed, *inputs), tangents)]
    there = torch.stack([p.sum() for p in products]).sum()
    scale = (seed * pushed).abs().sum() + torch.stack([p.abs().sum() for p in products]).sum()
    return bool(((seed * pushed).sum() - there).abs() <= AGREEMENT * scale)


def formulas(subject: Subject) -> dict[str, Formula]:
    """The reference derivative of each operator."""

    trust = Trust()

    def jacobian(*inputs: Tensor) -> Tensors:
        y, blocks = rows(subject, *inputs, trust=trust)
        return tuple(b.reshape(y.shape + x.shape) for b, x in zip(blocks, inputs))

    # The next two take few passes where a random seed shows that the structure holds here too.
    def diagonal(*inputs: Tensor) -> Tensors:
        y = subject.forward(*inputs)
        slopes = pullback(subject, torch.ones_like(y), *inputs)
        v = random_seed(y)
        if trust.agrees(
            "diagonal",
            lambda: agrees(tuple(d * v for d in slopes), pullback(subject, v, *inputs)),
        ):
            return slopes
        return tuple(
            b.diagonal().reshape(x.shape) for b, x in zip(rows(subject, *inputs)[1], inputs)
        )

    def batch_jacobian(*inputs: Tensor) -> Tensors:
        y = subject.forward(*inputs)
        samples = y[0].numel()
        seeds = torch.eye(samples, dtype=y.dtype).reshape(samples, 1, *y.shape[1:])
        pulled = [pullback(subject, seed.expand_as(y), *inputs) for seed in seeds]
        columns = zip(*pulled)
        own_blocks = tuple(torch.stack(c, 1).reshape(y.shape + c[0].shape[1:]) for c in columns)
        v = random_seed(y)
        seeded = v.reshape(len(y), samples, 1)
        product = tuple(
            (b.reshape(len(y), samples, -1) * seeded).sum(1).reshape(x.shape)
            for b, x in zip(own_blocks, inputs)
        )
        if trust.agrees("batched", lambda: agrees(product, pullback(subject, v, *inputs))):
            return own_blocks
        y, blocks = rows(subject, *inputs)
        dense = (b.reshape(y.shape + x.shape) for b, x in zip(blocks, inputs))
        return tuple(d.diagonal(0, 0, y.dim()).movedim(-1, 0) for d in dense)

    def vjp(v: Tensor, *inputs: Tensor) -> Tensors:
        return pullback(subject, v, *inputs)

    def hvp(t: Tensors, *inputs: Tensor) -> Tensors:
        return hessian_product(subject, t, *inputs)

    def jvp(t: Tensors, *inputs: Tensor) -> Tensor:
        (pushed,) = tried(lambda: (pushforward(subject, t, *inputs),)) or (None,)
        if pushed is not None and (
            subject.manner.forward_only
            or trust.agrees("jvp", lambda: _matches(subject, pushed, t, inputs))
        ):
            return pushed
        with torch.enable_grad():
            wrt, y = _leaves(subject, inputs)
            product = torch.zeros_like(y).reshape(-1)
            for start, end, blocks in row_batches(y, wrt):
                parts = [b.reshape(end - start, -1) @ s.reshape(-1) for b, s in zip(blocks, t)]
                product[start:end] = torch.stack(parts).sum(0)
        return product.reshape(y.shape).detach()

    def gauss_newton_product(t: Tensors, *inputs: Tensor) -> Tensors:
        return pullback(subject, jvp(t, *inputs), *inputs)

    def per_sample_gradient(*inputs: Tensor) -> Tensors:
        if subject.is_several:
            return jacobian(*inputs)
        y, blocks = rows(PerSample.of(subject), *inputs, trust=Trust())
        return tuple(b.reshape(y.shape + x.shape) for b, x in zip(blocks, inputs))

    return {
        "gradient": jacobian,
        "per_sample_gradient": per_sample_gradient,
        "gauss_newton_product": gauss_newton_product,
        "jacobian": jacobian,
        "diagonal": diagonal,
        "batch_jacobian": batch_jacobian,
        "vjp": vjp,
        "jvp": jvp,
        "hessian": functools.partial(hessian, subject),
        "hvp": hvp,
        "vhp": hvp,
    }


def products(subject: Subject) -> dict[str, tuple[Formula, Formula]]:
    """The reference derivatives of jacobian and hessian times tangents, and seeds times them.

    The hessians of several values are added up: their weights come before tangents and seeds.
    """

    def right(tangents: Tensors, *inputs: Tensor) -> Tensors:
        return (pushforward(subject, tangents, *inputs),)

    def left(seeds: Tensors, *inputs: Tensor) -> Tensors:
        return pullback(subject, seeds[0], *inputs)

    def twice(tangents: Tensors, *inputs: Tensor) -> Tensors:
        return hessian_product(subject, tangents, *inputs)

    def weighed(vectors: Tensors, *inputs: Tensor) -> Tensors:
        weights, *tangents = vectors
        return hessian_product(subject, tuple(tangents), *inputs, seed=weights)

    def right_of_samples(tangents: Tensors, *inputs: Tensor) -> Tensors:
        return (pushforward(PerSample.of(subject), tangents, *inputs),)

    def left_of_samples(seeds: Tensors, *inputs: Tensor) -> Tensors:
        return pullback(PerSample.of(subject), seeds[0], *inputs)

    if subject.is_several:
        first = right, left
        return {"jacobian": first, "per_sample_gradient": first, "hessian": (weighed, weighed)}
    samples = right_of_samples, left_of_samples
    return {"per_sample_gradient": samples, "hessian": (twice, twice)}

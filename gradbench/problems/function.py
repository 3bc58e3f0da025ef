"""Functions to differentiate, with their analytic derivatives, and helpers to declare them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gradbench.core.arguments import kind_of
from gradbench.core.cases import Size
from gradbench.core.families import NOTEBOOKS

Tensors = tuple[Tensor, ...]
Formula = Callable[..., Any]


def as_tuple(value: Any) -> Tensors:
    """A bare tensor as a tuple of one, since formulas may return either."""
    return value if type(value) is tuple else (value,)


def parts_of(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> Tensors:
    """The numbers of several tensors, one after another along the last dimension of `flat`, as
    tensors of these shapes: (…, numbers of all) becomes (…, *shape) for each."""
    split = flat.split([math.prod(shape) for shape in shapes], -1)
    return tuple(part.reshape((*flat.shape[:-1], *shape)) for part, shape in zip(split, shapes))


_OPTIONAL = ("steps", "pattern", "exact", "precise")
_KINDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a function": (Callable, ("forward", "example", "draw", *_OPTIONAL)),
    "a dict": (Mapping, ("example_size", "derivatives", "products", "variants")),
    "a tuple": ((tuple, list), ("inputs", "constants", "sizes", "large_sizes", "atlas")),
}
"""The fields of a function by their kind."""


@dataclass(frozen=True, kw_only=True)
class Function:
    """A map from tensors to one tensor, with its analytic derivatives.

    The differentiated inputs come first, then the constants. Every callable is a pure function
    that works in any floating dtype and on any device.

    `derivatives` maps each operator that applies to its analytic formula. A formula returns one
    tensor per differentiated input (a bare tensor for a single input). Its arguments are
    ``(*inputs)`` for derivative, gradient, jacobian, batch_jacobian, diagonal, hessian and
    batch_hessian; ``(v, *inputs)`` for vjp with `v` of the output's shape; ``(seeds, *inputs)`` for
    vjp_sum with `seeds` of shape (k, *output); ``(t, *inputs)`` for jvp and hvp, with `t` a tuple
    of one tangent per differentiated input.
    Hessians of several inputs are flat tuples of blocks in row-major order. From a hessian (or
    batch_hessian) follow hessian_diagonal, laplacian and its estimate, vhp and
    directional_second_derivative: see `formulas`.
    """

    name: str
    document: str
    """Letters of the source notebooks it comes from, such as "G" or "SV"; empty for others."""
    formula: str
    """The map in mathematical notation."""
    derivative: str
    """The derivative in mathematical notation."""
    forward: Callable[..., Tensor]
    example: Callable[[], Tensors]
    """The small example inputs of the source notebooks, float64 on the CPU."""
    example_size: Size
    """The size of `example`, from which fresh inputs of the same shapes are drawn."""
    draw: Callable[[Size, torch.Generator], Tensors]
    """Random inputs of a size, float64 on the CPU, inside the function's domain."""
    derivatives: Mapping[str, Formula]
    products: Mapping[str, tuple[Formula, Formula]] = field(default_factory=dict)
    """For large results of jacobian and hessian: the derivative times a tuple of tangents, and a
    tuple of seeds times the derivative, with the tuple before the inputs. Both return tuples."""
    variants: Mapping[str, Mapping[str, Formula]] = field(default_factory=dict)
    """More hand-written formulas: operator to name of the manual mode to formula."""
    inputs: tuple[str, ...] = ("x",)
    constants: tuple[str, ...] = ()
    """Names of the inputs that are not differentiated; they come last."""
    dtype: str = "float32"
    """The default dtype, that of the source notebooks."""
    sizes: tuple[Size, ...] = ()
    large_sizes: tuple[Size, ...] = ()
    atlas: tuple[Size, ...] = ()
    """The sizes of the profile *atlas*. A function that has some is measured there, and elsewhere
    only if it is named."""
    steps: Callable[..., tuple[Any, Sequence[Callable[[Any], Any]]]] | None = None
    """For checkpoints: of the inputs, a state (a tensor or a tuple of tensors) and the steps that
    turn it into the value one after another. `forward` is what they do."""
    pattern: Callable[[tuple[tuple[int, ...], ...]], tuple[Tensor, Tensor]] | None = None
    """For a sparse jacobian: of the inputs' shapes, the rows and columns of its entries, one pair
    for each. Rows number the value's entries, columns those of all differentiated inputs, flattened
    one after another. None: it is traced through the operations."""
    exact: Callable[..., Tensor] | None = None
    """Computes the value in float64 for the gate; None: `forward`."""
    precise: Callable[[], AbstractContextManager[Any]] | None = nullcontext
    """The context in which `forward` may be evaluated, and differentiated, in float64; None if it
    cannot be."""
    reverse: bool = False
    """Whether `derivatives` are reverse mode themselves, so that it is no second path to them."""
    unit: float = 0.0
    """The unit in the last place of the coarsest dtype inside, where that is coarser than the dtype
    of the inputs."""
    family: str = NOTEBOOKS
    """The functions that are selected together: without `--family`, those of "notebooks" are."""

    def __post_init__(self) -> None:
        self._require_kinds()
        if self.constants and self.inputs[-len(self.constants) :] != self.constants:
            raise ValueError(f"{self.name}: constants {self.constants} must be the last inputs")
        for size in (*self.sizes, *self.large_sizes, *self.atlas):
            if set(size) != set(self.example_size):
                raise ValueError(f"{self.name}: size {dict(size)} lacks {set(self.example_size)}")

    def _require_kinds(self) -> None:
        """Raises TypeError for a field that would fail when the function is met."""
        for wanted, (kinds, names) in _KINDS.items():
            for name in names:
                value = getattr(self, name)
                absent = value is None and name in _OPTIONAL
                if not (absent or isinstance(value, kinds)):
                    raise TypeError(f"{self.name}: {name} should be {wanted}, not {kind_of(value)}")

    @cached_property
    def formulas(self) -> Mapping[str, Formula]:
        """`derivatives`, and what follows from the jacobian and the hessian among them, which is
        measured only where it is named."""
        own = self.derivatives
        return {**own, **from_jacobian(own), **second_order(own)}

    @property
    def differentiated(self) -> int:
        """The number of differentiated inputs."""
        return len(self.inputs) - len(self.constants)


def uniform(
    generator: torch.Generator, *shape: int, low: float = -1.0, high: float = 1.0
) -> Tensor:
    """Uniform draws on [low, high), float64."""
    return torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal draws, float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def vector(*values: float) -> Tensor:
    """A float64 vector with the given entries."""
    return torch.tensor(values, dtype=torch.float64)


def scalar(value: float) -> Tensor:
    """A float64 tensor without dimensions."""
    return torch.tensor(value, dtype=torch.float64)


def scalar_valued(
    gradient: Formula,
    *,
    operator: str = "gradient",
    hessian: Formula | None = None,
    hvp: Formula | None = None,
) -> dict[str, Formula]:
    """The derivatives of a scalar-valued function from its gradient g.

    The pullback of a seed v is v·g; the pushforward of a tangent t is Σ ⟨gᵢ, tᵢ⟩. For a function of
    one number set `operator` to "derivative". `hessian` and `hvp` are added if given.
    """

    def vjp(v: Tensor, *inputs: Tensor) -> Tensors:
        return tuple(v * g for g in as_tuple(gradient(*inputs)))

    def jvp(t: Tensors, *inputs: Tensor) -> Tensor:
        terms = [(g * s).sum() for g, s in zip(as_tuple(gradient(*inputs)), t)]
        return sum(terms[1:], terms[0])

    derivatives: dict[str, Formula] = {operator: gradient, "vjp": vjp, "jvp": jvp}
    second = {"hessian": hessian, "hvp": hvp}
    return derivatives | {name: formula for name, formula in second.items() if formula is not None}


def elementwise(slope: Formula) -> dict[str, Formula]:
    """The derivatives of an elementwise map of one vector, from the derivative of its scalar map.

    The Jacobian is diag f′(x); a pullback or pushforward multiplies by f′(x).
    """
    return {
        "diagonal": slope,
        "jacobian": lambda x: torch.diag_embed(slope(x)),
        "vjp": lambda v, x: v * slope(x),
        "jvp": lambda t, x: slope(x) * t[0],
    }


def vector_valued(
    *, jacobian: Formula, vjp: Formula, jvp: Formula, accumulate: bool = False
) -> dict[str, Formula]:
    """The derivatives of a vector-valued function; `accumulate` adds `vjp_sum`."""
    derivatives: dict[str, Formula] = {"jacobian": jacobian, "vjp": vjp, "jvp": jvp}
    return with_accumulation(derivatives) if accumulate else derivatives


def with_second_order(derivatives: Mapping[str, Formula]) -> dict[str, Formula]:
    """The derivatives, and what follows from the hessian among them, to be measured without being
    named."""
    return {**derivatives, **second_order(derivatives)}


def with_accumulation(derivatives: dict[str, Formula]) -> dict[str, Formula]:
    """The derivatives and `vjp_sum`: by linearity Σₖ vₖᵀJ = (Σₖ vₖ)ᵀJ."""
    vjp = derivatives["vjp"]
    return derivatives | {"vjp_sum": lambda seeds, *inputs: vjp(seeds.sum(0), *inputs)}


def from_jacobian(derivatives: Mapping[str, Formula]) -> dict[str, Formula]:
    """Formulas that follow from a jacobian, and that are not among the derivatives: the same as
    sparse tensors, and JᵀJt from the products."""
    formulas: dict[str, Formula] = {}
    if "jacobian" in derivatives:
        jacobian, diagonal = derivatives["jacobian"], derivatives.get("diagonal")
        formulas["jacobian_sparse"] = (
            (lambda *inputs: tuple(block.to_sparse() for block in as_tuple(jacobian(*inputs))))
            if diagonal is None
            else (lambda *inputs: tuple(map(_sparse_diagonal, as_tuple(diagonal(*inputs)))))
        )
        if "jvp" in derivatives and "vjp" in derivatives:
            push, pull = derivatives["jvp"], derivatives["vjp"]
            formulas["gauss_newton_product"] = lambda t, *inputs: pull(push(t, *inputs), *inputs)
    return {name: formula for name, formula in formulas.items() if name not in derivatives}


def _sparse_diagonal(slope: Tensor) -> Tensor:
    """The jacobian of an elementwise map, with its entries alone."""
    at = torch.ones_like(slope, dtype=torch.bool).nonzero().T
    size = slope.shape + slope.shape
    places = torch.cat((at, at))
    return torch.sparse_coo_tensor(places, slope.flatten(), size, check_invariants=False)


def second_order(derivatives: Mapping[str, Formula]) -> dict[str, Formula]:
    """Formulas that follow from a hessian, and that are not among the derivatives.

    A hessian is that of one value, blocks of shape (x.shape + z.shape) in row-major order, or, as
    batch_hessian, one per sample: blocks of shape (N, x.shape[1:] + z.shape[1:]). Diagonals are
    like the inputs; the laplacian Σᵢ Hᵢᵢ and the second derivative tᵀHt along tangents are one
    number, or one per sample.
    """
    for name in ("hessian", "batch_hessian"):
        if name in derivatives:
            made = _Hessian(derivatives, per_sample=name == "batch_hessian")
            break
    else:
        return {}
    formulas: dict[str, Formula] = {
        "hessian_diagonal": made.diagonal,
        "laplacian": made.trace,
        "directional_second_derivative": made.along,
        "laplacian_estimate": made.estimate,
    }
    if name == "hessian":
        formulas |= {"hvp": made.product, "vhp": made.product}
    return {name: formula for name, formula in formulas.items() if name not in derivatives}


class _Hessian:
    """What follows from the blocks of a hessian, or of the hessians of a batch.

    No block is formed where there is a formula of the diagonal or of products.
    """

    def __init__(self, derivatives: Mapping[str, Formula], per_sample: bool) -> None:
        self._blocks = derivatives["batch_hessian" if per_sample else "hessian"]
        self._per_sample = per_sample
        self.diagonal = derivatives.get("hessian_diagonal", self._diagonal)
        self.product = self._product if per_sample else derivatives.get("hvp", self._product)

    def _matrices(self, inputs: Tensors) -> tuple[list[list[Tensor]], Tensors]:
        """The blocks by two inputs, as matrices of each sample, and the differentiated inputs."""
        flat = as_tuple(self._blocks(*inputs))
        wrt = inputs[: math.isqrt(len(flat))]
        sizes = [self._numbers(x).shape for x in wrt]
        rows = [flat[i * len(wrt) : (i + 1) * len(wrt)] for i in range(len(wrt))]
        return [
            [b.reshape(*size, other[1]) for b, other in zip(row, sizes)]
            for row, size in zip(rows, sizes)
        ], wrt

    def _numbers(self, x: Tensor) -> Tensor:
        """The numbers of each sample, (samples, numbers); of one sample where there is no batch."""
        return x.reshape(len(x) if self._per_sample else 1, -1)

    def _value(self, each: Tensor) -> Tensor:
        """A number for each sample, or for the one value."""
        return each if self._per_sample else each.reshape(())

    def _diagonal(self, *inputs: Tensor) -> Tensors:
        blocks, wrt = self._matrices(inputs)
        return tuple(
            row[i].diagonal(0, 1, 2).reshape(x.shape) for i, (row, x) in enumerate(zip(blocks, wrt))
        )

    def trace(self, *inputs: Tensor) -> Tensor:
        parts = [self._numbers(d).sum(1) for d in as_tuple(self.diagonal(*inputs))]
        return self._value(sum(parts[1:], parts[0]))

    def _product(self, t: Tensors, *inputs: Tensor) -> Tensors:
        blocks, wrt = self._matrices(inputs)
        tangents = [self._numbers(s)[..., None] for s in t]
        products = []
        for row, x in zip(blocks, wrt):
            parts = [b @ s for b, s in zip(row, tangents)]
            products.append(sum(parts[1:], parts[0]).reshape(x.shape))
        return tuple(products)

    def estimate(self, signs: Tensors, *inputs: Tensor) -> Tensor:
        along = [self.along(sign, *inputs) for sign in zip(*signs)]
        return sum(along[1:], along[0]) / len(along)

    def along(self, t: Tensors, *inputs: Tensor) -> Tensor:
        products = as_tuple(self.product(t, *inputs))
        parts = [self._numbers(p * s).sum(1) for p, s in zip(products, t)]
        return self._value(sum(parts[1:], parts[0]))

"""The operators (gradient, jacobian, vjp, …): all that both sides know of each, without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Shape = tuple[int, ...]

LEARNING_RATE = 0.1
"""The step length of training_step: plain gradient descent, p − 0.1 ∂L/∂p."""

NUMBER, NUMBERS, STRUCTURE = "number", "numbers", "structure"
SAMPLES, SHARED = "samples", "shared"
"""The functions of the user's that an operator is for: those that return one number, those that
return several, those whose jacobian is found to have the structure that it needs, those that return
one number for each sample of a batch, and those whose samples share what they are differentiated
by."""


class Posed(Protocol):
    """The shapes that an operator's result depends on."""

    @property
    def operator(self) -> str: ...

    @property
    def output(self) -> Shape:
        """The shape of the function's value."""

    @property
    def wrt(self) -> tuple[Shape, ...]:
        """The shapes of the differentiated inputs."""

    @property
    def samples(self) -> int:
        """The number of samples that share the differentiated inputs."""


def like_inputs(posed: Posed) -> tuple[Shape, ...]:
    return posed.wrt


def like_value(posed: Posed) -> tuple[Shape, ...]:
    return (posed.output,)


def no_rows(posed: Posed) -> tuple[int, ...]:
    return (0,) * len(posed.wrt)


def output_rows(posed: Posed) -> tuple[int, ...]:
    return (len(posed.output),) * len(posed.wrt)


def hessian_rows(posed: Posed) -> tuple[int, ...]:
    values = 0 if OPERATORS[posed.operator].per_sample else len(posed.output)
    return tuple(values + len(a) for a in posed.wrt for _ in posed.wrt)


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One kind of derivative: one declaration, which every face of the suite reads.

    Beside it stand its modes (`gradbench/modes/`), the analytic formulas of functions
    (`Function.derivatives`) and, for functions of the user's, its reference in
    `gradbench/worker/reference.py`.
    """

    name: str
    summary: str
    """What it is, in the notation of the field."""
    meaning: str
    """A sentence on what it computes, for a reader who does not know its name."""
    first: str
    """The usual choice of mode."""
    reverse: str
    """The mode that differentiates the function itself as the gate's second way to the exact
    result: it may round otherwise than a formula does."""
    further: str = ""
    """A mode that goes the other way, the gate's last: what is exactly zero there may be rounding
    here."""
    order: int = 1
    """Of the derivative: 2 takes evidence on the gradient's derivative as well."""
    sparse: bool = False
    """Whether its result is in torch's sparse layout (COO)."""
    per_sample: bool = False
    """Whether several values are those of the samples of a batch, along dimension 0 of the value
    and of every differentiated input, each with a derivative of its own."""
    seed: str = ""
    """What it takes before the inputs, as code calls it: `v`, a seed of the value's shape; `seeds`,
    several of them; `t`, a tangent for each differentiated input; `signs`, several vectors of ±1
    for each. Empty if it takes nothing."""
    shapes: Callable[[Posed], tuple[Shape, ...]] = like_inputs
    """The exact shapes of the result's blocks."""
    rows: Callable[[Posed], tuple[int, ...]] = no_rows
    """For each block, how many leading dimensions number the outputs. The others are the derivative
    of one output by one input, whose scale limits the rounding error of its entries."""
    from_zeros: bool = False
    """Whether zeros of the hessian that are known make it cheaper: they are looked for."""
    applies: tuple[str, ...] = ()
    """The functions of the user's that have it; none if it is of the catalogue alone."""
    first_of_yours: str = ""
    """The usual choice for a function of the user's, where that is another: the structure that
    `first` uses has been found by looking."""
    first_of_several: str = ""
    """The usual choice where a function of the user's returns several numbers."""
    forward_only: str = ""
    """The usual choice where a function has a forward mode only; empty if it cannot be had then."""
    unseen_cost: str = ""
    """What it costs by theory, for a function that was not called; `{each}` are the passes."""
    unseen_code: str = ""
    """The lines that return it, of a function `{f}` that was not called: see `advise/unseen.py`."""

    @property
    def words(self) -> str:
        """Its name in a sentence."""
        spoken = self.name.replace("_", " ")
        return f"sparse {spoken.removesuffix(' sparse')}" if self.sparse else spoken


_UNSEEN_DIAGONAL = """\
    wrt = tuple(x.detach().requires_grad_() for x in wrt)
    value = part(*wrt)
    samples, diagonal = len(value) if value.dim() else 1, []
    for x, g in zip(wrt, torch.autograd.grad(value.sum(), wrt, create_graph=True)):
        again = [
            torch.autograd.grad(column.sum(), x, retain_graph=True)[0].reshape(samples, -1)[:, i]
            for i, column in enumerate(g.reshape(samples, -1).unbind(1))
        ]
        diagonal.append(torch.stack(again, 1))
"""

OPERATORS = {
    operator.name: operator
    for operator in (
        Operator(
            name="derivative",
            summary="f′(x) of a scalar function of one number",
            meaning="f′(x): the derivative of a function of one number.",
            first="backward",
            reverse="grad",
            further="jacfwd",
        ),
        Operator(
            name="gradient",
            summary="all partial derivatives of one value",
            meaning="The derivative of one number, such as a loss, by every input.",
            first="backward",
            reverse="grad",
            further="jacfwd",
            applies=(NUMBER,),
            forward_only="functional_forward",
            unseen_cost="torch.func.grad takes one pass.",
            unseen_code="    return torch.func.grad({f}, by)(*inputs)\n",
        ),
        Operator(
            name="jacobian",
            summary="∂yᵢ/∂xⱼ of every output by every input",
            meaning="The derivative of every output by every input, as a matrix.",
            first="functional_jacobian",
            reverse="grads_batched",
            further="jacfwd",
            shapes=lambda posed: tuple(posed.output + shape for shape in posed.wrt),
            rows=output_rows,
            applies=(NUMBERS,),
            forward_only="functional_forward",
            unseen_code="""\
    numbers = {f}(*inputs).numel()
    few = numbers <= sum(inputs[i].numel() for i in by)
    return (torch.func.jacrev if few else torch.func.jacfwd)({f}, by)(*inputs)
""",
        ),
        Operator(
            name="vjp",
            summary="vᵀJ: the pullback of a seed",
            meaning="vᵀJ, a vector times the Jacobian: what backward() computes.",
            first="backward",
            reverse="grad",
            seed="v",
            applies=(NUMBER, NUMBERS),
            unseen_cost="torch.func.vjp takes one pass.",
            unseen_code="    return torch.func.vjp(part, *wrt)[1](v)\n",
        ),
        Operator(
            name="vjp_sum",
            summary="Σₖ vₖᵀJ: the pullback of several seeds, accumulated",
            meaning="The sum of vᵀJ over several v, as repeated calls of backward() accumulate it.",
            first="accumulated_backward",
            reverse="accumulated_grad",
            seed="seeds",
        ),
        Operator(
            name="jvp",
            summary="Jt: the pushforward of a tangent",
            meaning="Jt, the Jacobian times a vector: the derivative along a direction.",
            first="func_jvp",
            reverse="func_jvp",
            further="double_backward",
            seed="t",
            shapes=like_value,
            rows=lambda posed: (0,),
            applies=(NUMBER, NUMBERS),
            forward_only="func_jvp",
            unseen_cost="torch.func.jvp takes one pass.",
            unseen_code="    return torch.func.jvp(part, wrt, t)[1]\n",
        ),
        Operator(
            name="hvp",
            summary="Ht: the hessian times a tangent",
            meaning="Ht, the Hessian times a vector, without forming the Hessian.",
            first="grad_twice",
            reverse="grad_twice",
            further="forward_over_reverse",
            order=2,
            seed="t",
            applies=(NUMBER,),
            unseen_cost="torch.func.jvp of torch.func.grad takes one pass over both.",
            unseen_code="""\
    gradient = torch.func.grad(part, tuple(range(len(wrt))))
    return torch.func.jvp(gradient, wrt, t)[1]
""",
        ),
        Operator(
            name="hessian",
            summary="∂²y/∂xᵢ∂xⱼ of one value, or of each of several",
            meaning="All second derivatives of one number.",
            first="functional_hessian",
            reverse="grad_twice",
            further="func_hessian",
            order=2,
            shapes=lambda posed: tuple(posed.output + a + b for a in posed.wrt for b in posed.wrt),
            rows=hessian_rows,
            from_zeros=True,
            applies=(NUMBER, NUMBERS),
            first_of_several="functional_jacobian_twice",
            unseen_cost="of one number, torch.func.hessian takes {each} over the gradient.",
            unseen_code="    return torch.func.hessian({f}, by)(*inputs)\n",
        ),
        Operator(
            name="diagonal",
            summary="the diagonal of an elementwise map's jacobian",
            meaning="The diagonal of the Jacobian of an elementwise function; the rest is zero.",
            first="ones_backward",
            reverse="ones_grad",
            further="ones_jvp",
            rows=output_rows,
            applies=(STRUCTURE,),
            first_of_yours="dense_diagonal",
        ),
        Operator(
            name="batch_jacobian",
            summary="one jacobian per sample, without the zero blocks between samples",
            meaning="One Jacobian per sample of a batch, without the zeros between samples.",
            first="loop_grad",
            reverse="grads_batched",
            further="vmap_jacfwd",
            per_sample=True,
            shapes=lambda posed: tuple(posed.output + shape[1:] for shape in posed.wrt),
            rows=output_rows,
            applies=(STRUCTURE,),
            first_of_yours="naive_full",
        ),
        Operator(
            name="batch_hessian",
            summary="one hessian per sample",
            meaning="One Hessian per sample of a batch, without the zeros between samples.",
            first="grad_twice",
            reverse="grad_twice",
            further="vmap_hessian",
            order=2,
            per_sample=True,
            shapes=lambda posed: tuple(a + b[1:] for a in posed.wrt for b in posed.wrt),
            rows=hessian_rows,
        ),
        Operator(
            name="hessian_diagonal",
            summary="∂²y/∂xᵢ² of one value, or of each sample's by its own inputs",
            meaning="The diagonal of the Hessian, without the rest; one per sample of a batch.",
            first="grad_twice",
            reverse="grad_twice",
            further="loop_nested_jvp",
            order=2,
            per_sample=True,
            from_zeros=True,
            applies=(NUMBER, SAMPLES),
            unseen_cost="a loop of torch.autograd.grad takes {each} over the gradient.",
            unseen_code=_UNSEEN_DIAGONAL
            + "    return tuple(d.reshape(x.shape) for d, x in zip(diagonal, wrt))\n",
        ),
        Operator(
            name="laplacian",
            summary="Σᵢ ∂²y/∂xᵢ², the trace of the hessian, of one value or of each sample's",
            meaning="The Laplacian: the sum of the second derivatives by each input, per sample.",
            first="grad_twice",
            reverse="grad_twice",
            further="loop_nested_jvp",
            order=2,
            per_sample=True,
            shapes=like_value,
            rows=lambda posed: (0,),
            from_zeros=True,
            applies=(NUMBER, SAMPLES),
            unseen_cost="a loop of torch.autograd.grad takes {each} over the gradient.",
            unseen_code=_UNSEEN_DIAGONAL
            + "    return sum(d.sum(1) for d in diagonal).reshape(value.shape)\n",
        ),
        Operator(
            name="directional_second_derivative",
            summary="tᵀHt of one value, or of each sample's with its own tangent",
            meaning="tᵀHt: the second derivative along a direction, without forming the Hessian.",
            first="grad_twice",
            reverse="grad_twice",
            further="nested_jvp",
            order=2,
            per_sample=True,
            seed="t",
            shapes=like_value,
            rows=lambda posed: (0,),
            applies=(NUMBER, SAMPLES),
            unseen_cost="torch.func.jvp of itself takes one pass.",
            unseen_code="""\
    def slope(*wrt):
        return torch.func.jvp(part, wrt, t)[1]

    return torch.func.jvp(slope, wrt, t)[1]
""",
        ),
        Operator(
            name="laplacian_estimate",
            summary="Σₖ vₖᵀHvₖ / K of K vectors of signs: Hutchinson's estimate of the trace",
            meaning="An estimate of the Laplacian, by the second derivatives along random signs.",
            first="grad_twice",
            reverse="grad_twice",
            further="loop_nested_jvp",
            order=2,
            per_sample=True,
            seed="signs",
            shapes=like_value,
            rows=lambda posed: (0,),
            applies=(NUMBER, SAMPLES),
            unseen_cost="a loop of torch.autograd.grad takes a pass for each vector of signs.",
        ),
        Operator(
            name="vhp",
            summary="tᵀH: a tangent times the hessian",
            meaning="tᵀH, a vector times the Hessian: the same numbers as Ht, by torch's own vhp.",
            first="functional_vhp",
            reverse="grad_twice",
            further="forward_over_reverse",
            order=2,
            seed="t",
            applies=(NUMBER,),
            unseen_cost="torch.autograd.functional.vhp takes two passes.",
            unseen_code="    return torch.autograd.functional.vhp(part, wrt, t)[1]\n",
        ),
        Operator(
            name="jacobian_sparse",
            summary="the jacobian in torch's sparse layout, whose memory is that of its entries",
            meaning="The Jacobian as a sparse tensor, without the entries that are always zero.",
            first="dense_to_sparse",
            reverse="sparse_rows_loop",
            further="sparse_columns_loop",
            sparse=True,
            shapes=lambda posed: tuple(posed.output + shape for shape in posed.wrt),
            rows=output_rows,
            applies=(STRUCTURE,),
        ),
        Operator(
            name="gauss_newton_product",
            summary="JᵀJt: the Gauss-Newton matrix of ½‖f‖² times a tangent",
            meaning="JᵀJt: Gauss-Newton's approximate Hessian times a vector, without forming it.",
            first="jvp_vjp",
            reverse="double_backward",
            further="jvp_vjp",
            seed="t",
            applies=(NUMBERS,),
            unseen_cost="torch.func.jvp and torch.func.vjp take one pass each.",
            unseen_code="""\
    along = torch.func.jvp(part, wrt, t)[1]
    return torch.func.vjp(part, *wrt)[1](along)
""",
        ),
        Operator(
            name="per_sample_gradient",
            summary="one gradient per sample by the parameters that all samples share",
            meaning="The gradient of each sample's loss by the parameters, not added up.",
            first="loop_grad",
            reverse="loop_grad",
            further="jacfwd",
            shapes=lambda posed: tuple((posed.samples, *shape) for shape in posed.wrt),
            rows=lambda posed: (1,) * len(posed.wrt),
            applies=(SHARED,),
        ),
        Operator(
            name="training_step",
            summary=f"the parameters after one step of gradient descent of length {LEARNING_RATE}",
            meaning="The parameters after one step of gradient descent.",
            first="backward_step",
            reverse="grad_step",
        ),
    )
}

ADVISED = tuple(operator.name for operator in OPERATORS.values() if operator.applies)
"""Those that can be asked for of a function of the user's; which of them it has is found by looking
at it."""

"""Physics: steps of differential equations and their sensitivities, a residual on a grid, and a
physics-informed loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gradbench.core.cases import Size
from gradbench.problems.catalogue.applications.declaring import declare, with_gauss_newton
from gradbench.problems.function import Tensors, normal, scalar_valued, uniform, vector_valued

# One step of the classical Runge-Kutta method for the Brusselator on a ring of n cells (E. Hairer,
# S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, 1993, section II.10). Its
# sensitivity is the same method applied to the variational equation, the pullback its adjoint.

STEP, DIFFUSION = 0.01, 5.0
REACH = 4
"""A step of four stages moves what a cell has by so many cells at most."""


def _spread(x: Tensor) -> Tensor:
    """The diffusion between neighbours on the ring, which is symmetric."""
    return DIFFUSION * (x.roll(1, -1) + x.roll(-1, -1) - 2 * x)


def _reaction(y: Tensor) -> Tensor:
    u, v = y.unbind(-2)
    uuv = u * u * v
    return torch.stack((1 + uuv - 4 * u, 3 * u - uuv), -2) + _spread(y)


def _reaction_slope(y: Tensor, t: Tensor) -> Tensor:
    """F′(y) t for tangents (…, 2, n)."""
    u, v = y.unbind(-2)
    a, b = t.unbind(-2)
    moved = 2 * u * v * a + u * u * b
    return torch.stack((moved - 4 * a, 3 * a - moved), -2) + _spread(t)


def _reaction_back(y: Tensor, w: Tensor) -> Tensor:
    """F′(y)ᵀ w."""
    u, v = y.unbind(-2)
    a, b = w.unbind(-2)
    return torch.stack((2 * u * v * (a - b) - 4 * a + 3 * b, u * u * (a - b)), -2) + _spread(w)


def _stages(y: Tensor) -> Tensors:
    """Where the rate is evaluated."""
    second = y + STEP / 2 * _reaction(y)
    third = y + STEP / 2 * _reaction(second)
    return y, second, third, y + STEP * _reaction(third)


def brusselator_step(y: Tensor) -> Tensor:
    """The concentrations (2, n) after a step."""
    k1, k2, k3, k4 = map(_reaction, _stages(y))
    return y + STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _brusselator_push(t: Tensor, y: Tensor) -> Tensor:
    first, second, third, last = _stages(y)
    k1 = _reaction_slope(first, t)
    k2 = _reaction_slope(second, t + STEP / 2 * k1)
    k3 = _reaction_slope(third, t + STEP / 2 * k2)
    k4 = _reaction_slope(last, t + STEP * k3)
    return t + STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _brusselator_vjp(v: Tensor, y: Tensor) -> Tensor:
    first, second, third, last = _stages(y)
    y4 = _reaction_back(last, STEP / 6 * v)
    y3 = _reaction_back(third, STEP / 3 * v + STEP * y4)
    y2 = _reaction_back(second, STEP / 3 * v + STEP / 2 * y3)
    y1 = _reaction_back(first, STEP / 6 * v + STEP / 2 * y2)
    return v + y1 + y2 + y3 + y4


def _brusselator_jacobian(y: Tensor) -> Tensor:
    columns = torch.eye(y.numel(), dtype=y.dtype, device=y.device).reshape(-1, *y.shape)
    return _brusselator_push(columns, y).movedim(0, -1).reshape(*y.shape, *y.shape)


def _brusselator_sparse(y: Tensor) -> Tensor:
    """The jacobian with its entries alone, at most 18 per row: one push takes the columns of all
    cells that are too far apart to reach the same one."""
    n = y.shape[1]
    width = min(2 * REACH + 1, n)
    whole = n - n % width
    cells, both = torch.arange(n, device=y.device), torch.arange(2, device=y.device)
    # The cells that are left at the end of the ring have pushes of their own.
    push = torch.where(cells < whole, cells % width, cells - whole + width)
    tangents = y.new_zeros(2, width + n - whole, 2, n)
    tangents[both[:, None], push, both[:, None], cells] = 1
    pushed = _brusselator_push(tangents, y)
    near = torch.arange(width, device=y.device) - REACH
    row, cell, column, offset = torch.meshgrid(both, cells, both, near, indexing="ij")
    other = (cell + offset) % n
    values = pushed[column, push[other], row, cell].reshape(-1)
    places = torch.stack([index.reshape(-1) for index in (row, cell, column, other)])
    return torch.sparse_coo_tensor(places, values, (2, n, 2, n), check_invariants=False)


declare(
    "brusselator_step",
    formula="y + h(k₁ + 2k₂ + 2k₃ + k₄)/6 for u′ = 1 + u²v − 4u + 5Δu, v′ = 3u − u²v + 5Δv on a "
    "ring of n cells",
    derivative="the same method for the variational equation; its adjoint for the pullback",
    forward=brusselator_step,
    draw=lambda size, generator: (uniform(generator, 2, size["n"], low=0.5, high=3.5),),
    derivatives={
        **vector_valued(
            jacobian=_brusselator_jacobian,
            vjp=_brusselator_vjp,
            jvp=lambda t, y: _brusselator_push(t[0], y),
        ),
        "jacobian_sparse": _brusselator_sparse,
    },
    inputs=("y",),
    example={"n": 4},
    sizes=({"n": 32}, {"n": 256}),
    large_sizes=({"n": 1024},),
)


# The solution of Lotka and Volterra's equations at T times, by the rates and the initial state;
# its derivative by forward sensitivities: S′ = F_y S + F_p, stepped along with the solution.

INTERVAL = 0.02


def _rates(p: Tensor, y: Tensor) -> Tensor:
    both = y[0] * y[1]
    return torch.stack((p[0] * y[0] - p[1] * both, p[3] * both - p[2] * y[1]))


def _stepped(p: Tensor, y: Tensor) -> Tensor:
    k1 = _rates(p, y)
    k2 = _rates(p, y + INTERVAL / 2 * k1)
    k3 = _rates(p, y + INTERVAL / 2 * k2)
    k4 = _rates(p, y + INTERVAL * k3)
    return y + INTERVAL / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def lotka_volterra(p: Tensor, start: Tensor, data: Tensor) -> Tensor:
    """The residuals (T, 2) of rates (4,) and an initial state (2,): data (T, 2)."""
    y, states = start, []
    for _ in range(len(data)):
        y = _stepped(p, y)
        states.append(y)
    return torch.stack(states) - data


def _rate_slopes(p: Tensor, y: Tensor, S: Tensor) -> Tensor:
    """F_y S + F_p at a state, for sensitivities (2, 6) by the rates and the initial state."""
    a, b, c, d = p
    prey, predators = y
    by_state = torch.stack((a - b * predators, -b * prey, d * predators, d * prey - c))
    both, zero = prey * predators, torch.zeros_like(prey)
    by_rates = torch.stack(
        (prey, -both, zero, zero, zero, zero, zero, zero, -predators, both, zero, zero)
    )
    return by_state.reshape(2, 2) @ S + by_rates.reshape(2, 6)


def _sensitivities(p: Tensor, start: Tensor, data: Tensor) -> Tensor:
    """The derivatives of all states by the rates and the initial state, (T, 2, 6)."""
    y, S = start, functional.pad(torch.eye(2, dtype=p.dtype, device=p.device), (4, 0))
    found = []
    for _ in range(len(data)):
        k1, s1 = _rates(p, y), _rate_slopes(p, y, S)
        y2, S2 = y + INTERVAL / 2 * k1, S + INTERVAL / 2 * s1
        k2, s2 = _rates(p, y2), _rate_slopes(p, y2, S2)
        y3, S3 = y + INTERVAL / 2 * k2, S + INTERVAL / 2 * s2
        k3, s3 = _rates(p, y3), _rate_slopes(p, y3, S3)
        y4, S4 = y + INTERVAL * k3, S + INTERVAL * s3
        k4, s4 = _rates(p, y4), _rate_slopes(p, y4, S4)
        y = y + INTERVAL / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        S = S + INTERVAL / 6 * (s1 + 2 * s2 + 2 * s3 + s4)
        found.append(S)
    return torch.stack(found)


def _apart(both: Tensor) -> Tensors:
    return both[..., :4], both[..., 4:]


declare(
    "lotka_volterra",
    formula="y(tᵢ) − dᵢ at T times by Runge-Kutta steps of x′ = ax − bxy, y′ = dxy − cy; the data "
    "constant",
    derivative="forward sensitivities, S′ = F_y S + F_p, by the same steps",
    forward=lotka_volterra,
    draw=lambda size, generator: (
        uniform(generator, 4, low=0.8, high=1.2),
        uniform(generator, 2, low=0.8, high=1.2),
        normal(generator, size["T"], 2),
    ),
    derivatives=with_gauss_newton(
        vector_valued(
            jacobian=lambda *inputs: _apart(_sensitivities(*inputs)),
            vjp=lambda v, *inputs: _apart(torch.einsum("ti,tij->j", v, _sensitivities(*inputs))),
            jvp=lambda t, *inputs: _sensitivities(*inputs) @ torch.cat(t),
        )
    ),
    inputs=("p", "start"),
    constants=("data",),
    example={"T": 3},
    sizes=({"T": 10}, {"T": 50}),
    large_sizes=({"T": 200},),
)


# A finite-difference residual in two dimensions: Bratu's problem −Δu = λ exp u on the unit square,
# zero on its boundary, by the five-point stencil, times h². Its jacobian is symmetric.

BRATU = 5.0


def _stencil(u: Tensor) -> Tensor:
    w = functional.pad(u, (1, 1, 1, 1))
    near = w[:-2, 1:-1] + w[2:, 1:-1] + w[1:-1, :-2] + w[1:-1, 2:]
    return 4 * u - near


def bratu_residual(u: Tensor) -> Tensor:
    """The residuals at n × n inner points."""
    return _stencil(u) - BRATU / (len(u) + 1) ** 2 * torch.exp(u)


def _bratu_product(t: Tensor, u: Tensor) -> Tensor:
    return _stencil(t) - BRATU / (len(u) + 1) ** 2 * torch.exp(u) * t


def _bratu_jacobian(u: Tensor) -> Tensor:
    n = len(u)
    i, j = torch.meshgrid(*[torch.arange(n, device=u.device)] * 2, indexing="ij")
    jacobian = u.new_zeros(n, n, n, n)
    jacobian[i, j, i, j] = 4 - BRATU / (n + 1) ** 2 * torch.exp(u)
    jacobian[i[1:], j[1:], i[:-1], j[1:]] = -1
    jacobian[i[:-1], j[1:], i[1:], j[1:]] = -1
    jacobian[i[:-1], j[:-1], i[1:], j[:-1]] = -1
    jacobian[i[1:], j[:-1], i[:-1], j[:-1]] = -1
    jacobian[i[:, 1:], j[:, 1:], i[:, 1:], j[:, :-1]] = -1
    jacobian[i[:, 1:], j[:, :-1], i[:, 1:], j[:, 1:]] = -1
    return jacobian


def _bratu_sparse(u: Tensor) -> Tensor:
    """The jacobian with its entries alone, about five per row."""
    n = len(u)
    at = torch.arange(n * n, device=u.device).reshape(n, n)
    pairs = ((at[1:], at[:-1]), (at[:-1], at[1:]), (at[:, 1:], at[:, :-1]), (at[:, :-1], at[:, 1:]))
    rows = torch.cat([at.reshape(-1), *(row.reshape(-1) for row, _ in pairs)])
    columns = torch.cat([at.reshape(-1), *(column.reshape(-1) for _, column in pairs)])
    diagonal = (4 - BRATU / (n + 1) ** 2 * torch.exp(u)).reshape(-1)
    values = torch.cat((diagonal, diagonal.new_full((len(rows) - n * n,), -1.0)))
    places = torch.stack((rows // n, rows % n, columns // n, columns % n))
    return torch.sparse_coo_tensor(places, values, (n, n, n, n), check_invariants=False)


declare(
    "bratu_residual",
    formula="4uᵢⱼ − uᵢ₋₁ⱼ − uᵢ₊₁ⱼ − uᵢⱼ₋₁ − uᵢⱼ₊₁ − 5h² exp uᵢⱼ on n × n points, h = 1/(n + 1)",
    derivative="4 − 5h² exp uᵢⱼ on the diagonal, −1 by each neighbour; symmetric",
    forward=bratu_residual,
    draw=lambda size, generator: (uniform(generator, size["n"], size["n"]),),
    derivatives={
        **vector_valued(
            jacobian=_bratu_jacobian,
            vjp=_bratu_product,
            jvp=lambda t, u: _bratu_product(t[0], u),
        ),
        "jacobian_sparse": _bratu_sparse,
    },
    inputs=("u",),
    example={"n": 4},
    sizes=({"n": 8}, {"n": 24}),
    large_sizes=({"n": 64},),
)


# A physics-informed loss (M. Raissi, P. Perdikaris, G. E. Karniadakis, 2019) for Poisson's equation
# in d dimensions: the squared residual Δu + f of a network u at N points, and its squared distance
# from boundary values at M points. The Laplacian is carried through the layers together with the
# value and the slopes, so that the loss has no derivative of torch's inside.


def _bend(a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """tanh and its first three derivatives."""
    s = torch.tanh(a)
    p = 1 - s * s
    q = -2 * s * p
    return s, p, q, -2 * (p * p + s * q)


def _field(W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, w3: Tensor, X: Tensor) -> Tensors:
    """A network's values (N,) and Laplacians (N,)."""
    s1, p1, q1, _ = _bend(functional.linear(X, W1, b1))
    slopes = W1.T
    s2, p2, q2, _ = _bend(functional.linear(s1, W2, b2))
    slopes2 = (p1[:, None] * slopes) @ W2.T
    bent2 = (q1 * (slopes * slopes).sum(0)) @ W2.T
    return s2 @ w3, (q2 * (slopes2 * slopes2).sum(1) + p2 * bent2) @ w3


def poisson_network(
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    w3: Tensor,
    X: Tensor,
    f: Tensor,
    boundary: Tensor,
    g: Tensor,
) -> Tensor:
    _, laplacians = _field(W1, b1, W2, b2, w3, X)
    values, _ = _field(W1, b1, W2, b2, w3, boundary)
    return ((laplacians + f) ** 2).mean() + ((values - g) ** 2).mean()


def _field_back(
    d_value: Tensor,
    d_laplacian: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    w3: Tensor,
    X: Tensor,
) -> Tensors:
    """The pullback of `_field` to the parameters, written out backwards."""
    s1, p1, q1, r1 = _bend(functional.linear(X, W1, b1))
    s2, p2, q2, r2 = _bend(functional.linear(s1, W2, b2))
    slopes = W1.T
    squares = (slopes * slopes).sum(0)
    slopes1, bent1 = p1[:, None] * slopes, q1 * squares
    slopes2, bent2 = slopes1 @ W2.T, bent1 @ W2.T
    squares2 = (slopes2 * slopes2).sum(1)
    d_w3 = s2.T @ d_value + (q2 * squares2 + p2 * bent2).T @ d_laplacian
    d_s2, d_l2 = d_value[:, None] * w3, d_laplacian[:, None] * w3
    d_a2 = d_s2 * p2 + d_l2 * (r2 * squares2 + q2 * bent2)
    d_slopes2, d_bent2 = 2 * (d_l2 * q2)[:, None] * slopes2, d_l2 * p2
    d_W2 = d_a2.T @ s1 + torch.einsum("ndi,ndj->ij", d_slopes2, slopes1) + d_bent2.T @ bent1
    d_slopes1, d_bent1 = d_slopes2 @ W2, d_bent2 @ W2
    d_a1 = (d_a2 @ W2) * p1 + (d_slopes1 * slopes).sum(1) * q1 + d_bent1 * r1 * squares
    d_slopes = (d_slopes1 * p1[:, None]).sum(0) + 2 * slopes * (d_bent1 * q1).sum(0)
    return d_a1.T @ X + d_slopes.T, d_a1.sum(0), d_W2, d_a2.sum(0), d_w3


def _poisson_gradient(*inputs: Tensor) -> Tensors:
    W1, b1, W2, b2, w3, X, f, boundary, g = inputs
    parameters = W1, b1, W2, b2, w3
    residual = _field(*parameters, X)[1] + f
    apart = _field(*parameters, boundary)[0] - g
    inside = _field_back(torch.zeros_like(f), 2 / len(f) * residual, *parameters, X)
    outside = _field_back(2 / len(g) * apart, torch.zeros_like(g), *parameters, boundary)
    return tuple(a + b for a, b in zip(inside, outside))


def _draw_poisson(size: Size, generator: torch.Generator) -> Tensors:
    N, M, d, h = size["N"], size["M"], size["d"], size["h"]
    return (
        normal(generator, h, d) / d**0.5,
        normal(generator, h),
        normal(generator, h, h) / h**0.5,
        normal(generator, h),
        normal(generator, h) / h**0.5,
        uniform(generator, N, d),
        normal(generator, N),
        uniform(generator, M, d),
        normal(generator, M),
    )


declare(
    "poisson_network",
    formula="mean (Δu(xᵢ) + fᵢ)² + mean (u(zⱼ) − gⱼ)², u(x) = w₃·tanh(W₂ tanh(W₁x + b₁) + b₂), "
    "x (N, d), f, z (M, d) and g constant",
    derivative="value, slopes and Laplacian carried through each layer, pulled back by hand: for "
    "y = tanh a, Δy = y″|∇a|² + y′Δa",
    forward=poisson_network,
    draw=_draw_poisson,
    derivatives=scalar_valued(_poisson_gradient),
    inputs=("W1", "b1", "W2", "b2", "w3"),
    constants=("X", "f", "boundary", "g"),
    dtype="float32",
    example={"N": 6, "M": 4, "d": 2, "h": 3},
    sizes=({"N": 32, "M": 16, "d": 2, "h": 16}, {"N": 256, "M": 64, "d": 2, "h": 64}),
    large_sizes=({"N": 4096, "M": 512, "d": 3, "h": 128},),
)

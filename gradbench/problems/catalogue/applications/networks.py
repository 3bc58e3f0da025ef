"""Networks: cross-entropies of a perceptron and of a convolutional network, by their parameters, of
each sample, and by their inputs; a network as a field; batch and layer norm."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gradbench.core.cases import Size
from gradbench.core.operators import LEARNING_RATE
from gradbench.problems.catalogue.applications.declaring import declare
from gradbench.problems.function import Formula, Tensors, normal, scalar_valued, uniform

# The cross-entropy −y·log softmax(z) of scores z with labels y, ones and zeros: its slope by z is
# softmax(z) Σy − y.


def _cross_entropies(scores: Tensor, labels: Tensor) -> Tensor:
    return -(labels * torch.log_softmax(scores, -1)).sum(-1)


def _score_slopes(scores: Tensor, labels: Tensor) -> Tensor:
    return torch.softmax(scores, -1) * labels.sum(-1, keepdim=True) - labels


def _draw_labels(generator: torch.Generator, N: int, k: int) -> Tensor:
    own = torch.randint(k, (N,), generator=generator)
    return functional.one_hot(own, k).to(torch.float64)


# A perceptron with a hidden layer of tanh.


def _perceptron(W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, X: Tensor) -> Tensor:
    return functional.linear(torch.tanh(functional.linear(X, W1, b1)), W2, b2)


def _perceptron_back(
    seeds: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, X: Tensor, labels: Tensor
) -> tuple[Tensors, Tensors]:
    """The pullback of one seed per sample: each sample's part of the parameters' gradients, as
    factors whose outer product is that of a weight; and the inputs'."""
    H = torch.tanh(functional.linear(X, W1, b1))
    d_scores = seeds[:, None] * _score_slopes(functional.linear(H, W2, b2), labels)
    d_hidden = (d_scores @ W2) * (1 - H * H)
    return (d_hidden, X, d_scores, H), (d_hidden @ W1,)


def _perceptron_each(seeds: Tensor, *inputs: Tensor) -> Tensors:
    (d_hidden, X, d_scores, H), _ = _perceptron_back(seeds, *inputs)
    return d_hidden[:, :, None] * X[:, None], d_hidden, d_scores[:, :, None] * H[:, None], d_scores


def _perceptron_sum(seeds: Tensor, *inputs: Tensor) -> Tensors:
    (d_hidden, X, d_scores, H), _ = _perceptron_back(seeds, *inputs)
    return d_hidden.T @ X, d_hidden.sum(0), d_scores.T @ H, d_scores.sum(0)


def _perceptron_push(t: Tensors, *inputs: Tensor) -> Tensor:
    """How each sample's loss moves along tangents of the parameters."""
    W1, b1, W2, b2, X, labels = inputs
    H = torch.tanh(functional.linear(X, W1, b1))
    d_hidden = (1 - H * H) * functional.linear(X, t[0], t[1])
    d_scores = functional.linear(d_hidden, W2) + functional.linear(H, t[2], t[3])
    return (_score_slopes(functional.linear(H, W2, b2), labels) * d_scores).sum(1)


def _draw_perceptron(size: Size, generator: torch.Generator) -> Tensors:
    N, d, h, k = size["N"], size["d"], size["h"], size["k"]
    return (
        normal(generator, h, d) / d**0.5,
        normal(generator, h),
        normal(generator, k, h) / h**0.5,
        normal(generator, k),
        normal(generator, N, d),
        _draw_labels(generator, N, k),
    )


# A convolutional network in the manner of LeNet (Y. LeCun et al., 1998): twice a convolution 3 × 3,
# tanh and an average over 2 × 2, then a linear layer. Images have one channel and s × s pixels.


def _convolutional(
    A1: Tensor, a1: Tensor, A2: Tensor, a2: Tensor, W: Tensor, b: Tensor, X: Tensor
) -> Tensor:
    H = functional.avg_pool2d(torch.tanh(functional.conv2d(X, A1, a1, padding=1)), 2)
    H = functional.avg_pool2d(torch.tanh(functional.conv2d(H, A2, a2, padding=1)), 2)
    return functional.linear(H.flatten(-3), W, b)


def _spread(pooled: Tensor) -> Tensor:
    """The pullback of an average over 2 × 2."""
    return pooled.repeat_interleave(2, -1).repeat_interleave(2, -2) / 4


def _convolutional_back(
    seeds: Tensor,
    A1: Tensor,
    a1: Tensor,
    A2: Tensor,
    a2: Tensor,
    W: Tensor,
    b: Tensor,
    X: Tensor,
    labels: Tensor,
) -> tuple[Tensors, Tensors]:
    """As `_perceptron_back`: the factors of each weight are its layer's slopes and inputs."""
    H1 = torch.tanh(functional.conv2d(X, A1, a1, padding=1))
    P1 = functional.avg_pool2d(H1, 2)
    H2 = torch.tanh(functional.conv2d(P1, A2, a2, padding=1))
    P2 = functional.avg_pool2d(H2, 2)
    flat = P2.flatten(1)
    d_scores = seeds[:, None] * _score_slopes(functional.linear(flat, W, b), labels)
    d2 = _spread((d_scores @ W).reshape(P2.shape)) * (1 - H2 * H2)
    d1 = _spread(functional.conv_transpose2d(d2, A2, padding=1)) * (1 - H1 * H1)
    return (d1, X, d2, P1, d_scores, flat), (functional.conv_transpose2d(d1, A1, padding=1),)


def _patches(x: Tensor) -> Tensor:
    """What each place of a convolution 3 × 3 sees, (N, 9c, places)."""
    return functional.unfold(x, 3, padding=1)


def _convolutional_each(seeds: Tensor, *inputs: Tensor) -> Tensors:
    (d1, X, d2, P1, d_scores, flat), _ = _convolutional_back(seeds, *inputs)
    filters = [
        torch.einsum("nol,npl->nop", d.flatten(2), _patches(x)).reshape(len(X), *A.shape)
        for d, x, A in ((d1, X, inputs[0]), (d2, P1, inputs[2]))
    ]
    sums = d1.sum((2, 3)), d2.sum((2, 3))
    return filters[0], sums[0], filters[1], sums[1], d_scores[:, :, None] * flat[:, None], d_scores


def _convolutional_sum(seeds: Tensor, *inputs: Tensor) -> Tensors:
    (d1, X, d2, P1, d_scores, flat), _ = _convolutional_back(seeds, *inputs)
    filters = [
        torch.einsum("nol,npl->op", d.flatten(2), _patches(x)).reshape(A.shape)
        for d, x, A in ((d1, X, inputs[0]), (d2, P1, inputs[2]))
    ]
    sums = d1.sum((0, 2, 3)), d2.sum((0, 2, 3))
    return filters[0], sums[0], filters[1], sums[1], d_scores.T @ flat, d_scores.sum(0)


def _convolutional_push(t: Tensors, *inputs: Tensor) -> Tensor:
    A1, a1, A2, a2, W, b, X, labels = inputs
    H1 = torch.tanh(functional.conv2d(X, A1, a1, padding=1))
    P1 = functional.avg_pool2d(H1, 2)
    H2 = torch.tanh(functional.conv2d(P1, A2, a2, padding=1))
    flat = functional.avg_pool2d(H2, 2).flatten(1)
    d1 = functional.avg_pool2d((1 - H1 * H1) * functional.conv2d(X, t[0], t[1], padding=1), 2)
    moved = functional.conv2d(d1, A2, padding=1) + functional.conv2d(P1, t[2], t[3], padding=1)
    d2 = functional.avg_pool2d((1 - H2 * H2) * moved, 2).flatten(1)
    d_scores = functional.linear(d2, W) + functional.linear(flat, t[4], t[5])
    return (_score_slopes(functional.linear(flat, W, b), labels) * d_scores).sum(1)


def _draw_convolutional(size: Size, generator: torch.Generator) -> Tensors:
    N, s, c, k = size["N"], size["s"], size["c"], size["k"]
    features = c * (s // 4) ** 2
    return (
        normal(generator, c, 1, 3, 3) / 3,
        normal(generator, c),
        normal(generator, c, c, 3, 3) / (3 * c**0.5),
        normal(generator, c),
        normal(generator, k, features) / features**0.5,
        normal(generator, k),
        normal(generator, N, 1, s, s),
        _draw_labels(generator, N, k),
    )


# Each network as three functions: the mean loss by the parameters, each sample's loss by the
# parameters, and each sample's loss by its input.


def _three(
    name: str,
    scores: str,
    parameters: tuple[str, ...],
    forward: Formula,
    back: Formula,
    each: Formula,
    added: Formula,
    push: Formula,
    draw: Formula,
    example: Size,
    sizes: tuple[Size, ...],
    large_sizes: tuple[Size, ...],
    large_sizes_of_samples: tuple[Size, ...],
) -> None:
    count = len(parameters)

    def losses(*inputs: Tensor) -> Tensor:
        *network, labels = inputs
        return _cross_entropies(forward(*network), labels)

    def mean_loss(*inputs: Tensor) -> Tensor:
        return losses(*inputs).mean()

    def gradient(*inputs: Tensor) -> Tensors:
        X = inputs[count]
        result: Tensors = added(torch.full_like(X.flatten(1)[:, 0], 1 / len(X)), *inputs)
        return result

    def step(*inputs: Tensor) -> Tensors:
        return tuple(p - LEARNING_RATE * g for p, g in zip(inputs, gradient(*inputs)))

    def ones(X: Tensor) -> Tensor:
        return torch.ones_like(X.flatten(1)[:, 0])

    def of_each(*inputs: Tensor) -> Tensors:
        result: Tensors = each(ones(inputs[count]), *inputs)
        return result

    def of_parameters(X: Tensor, *rest: Tensor) -> Tensors:
        """The arguments in the order of `forward`, from that of the function of the inputs."""
        *network, labels = rest
        return (*network, X, labels)

    def by_inputs(seeds: Tensor, *inputs: Tensor) -> Tensor:
        slopes: Tensor = back(seeds, *of_parameters(*inputs))[1][0]
        return slopes

    def drawn_by_inputs(size: Size, generator: torch.Generator) -> Tensors:
        *network, X, labels = draw(size, generator)
        return (X, *network, labels)

    declare(
        f"{name}_loss",
        formula=f"mean of −yᵢ·log softmax(zᵢ), z = {scores}; X and y constant",
        derivative="dz = (softmax(z) − y)/N, pulled back layer by layer",
        forward=mean_loss,
        draw=draw,
        derivatives={**scalar_valued(gradient), "training_step": step},
        inputs=parameters,
        constants=("X", "labels"),
        dtype="float32",
        example=example,
        sizes=sizes,
        large_sizes=large_sizes,
    )
    declare(
        f"{name}_sample_losses",
        formula=f"−yᵢ·log softmax(zᵢ) of each of N samples, z = {scores}; X and y constant",
        derivative="each sample's gradient by the parameters: outer products of slopes and inputs",
        forward=losses,
        draw=draw,
        derivatives={
            "jacobian": of_each,
            "per_sample_gradient": of_each,
            "vjp": added,
            "jvp": push,
        },
        inputs=parameters,
        constants=("X", "labels"),
        dtype="float32",
        example=example,
        sizes=sizes,
        large_sizes=large_sizes_of_samples,
    )
    declare(
        f"{name}_saliency",
        formula=f"−yᵢ·log softmax(zᵢ) of each of N samples by its input, z = {scores}; parameters "
        "and y constant",
        derivative="dz = softmax(z) − y of each sample, pulled back to its input",
        forward=lambda *inputs: losses(*of_parameters(*inputs)),
        draw=drawn_by_inputs,
        derivatives={
            "batch_jacobian": lambda *inputs: by_inputs(ones(inputs[0]), *inputs),
            "vjp": by_inputs,
            "jvp": lambda t, *inputs: (
                (by_inputs(ones(inputs[0]), *inputs) * t[0]).flatten(1).sum(1)
            ),
        },
        inputs=("X",),
        constants=(*parameters, "labels"),
        dtype="float32",
        example=example,
        sizes=sizes,
        large_sizes=large_sizes,
    )


_three(
    "mlp",
    "W₂ tanh(W₁x + b₁) + b₂",
    ("W1", "b1", "W2", "b2"),
    _perceptron,
    _perceptron_back,
    _perceptron_each,
    _perceptron_sum,
    _perceptron_push,
    _draw_perceptron,
    example={"N": 7, "d": 3, "h": 4, "k": 2},
    sizes=({"N": 16, "d": 20, "h": 32, "k": 10}, {"N": 64, "d": 100, "h": 128, "k": 10}),
    large_sizes=({"N": 512, "d": 784, "h": 1024, "k": 10},),
    large_sizes_of_samples=({"N": 128, "d": 784, "h": 256, "k": 10},),
)
_three(
    "cnn",
    "W P + b, P of two layers of convolution 3 × 3, tanh and average over 2 × 2",
    ("A1", "a1", "A2", "a2", "W", "b"),
    _convolutional,
    _convolutional_back,
    _convolutional_each,
    _convolutional_sum,
    _convolutional_push,
    _draw_convolutional,
    example={"N": 5, "s": 4, "c": 2, "k": 3},
    sizes=({"N": 8, "s": 8, "c": 4, "k": 10}, {"N": 32, "s": 16, "c": 8, "k": 10}),
    large_sizes=({"N": 128, "s": 32, "c": 16, "k": 10},),
    large_sizes_of_samples=({"N": 128, "s": 32, "c": 8, "k": 10},),
)


# A network as a scalar field of N points, for its slopes and curvatures by the coordinates.


def network_field(X: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, w3: Tensor) -> Tensor:
    """The values (N,) at points (N, d)."""
    H = torch.tanh(functional.linear(X, W1, b1))
    return torch.tanh(functional.linear(H, W2, b2)) @ w3


def _field_slopes(
    X: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, w3: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden units and slopes of both layers: s₁, s₁′, the slopes of u by the first layer's units,
    and the curvatures of u by what goes into the second."""
    s1 = torch.tanh(functional.linear(X, W1, b1))
    s2 = torch.tanh(functional.linear(s1, W2, b2))
    p2 = 1 - s2 * s2
    return s1, 1 - s1 * s1, (p2 * w3) @ W2, -2 * s2 * p2 * w3


def _field_gradient(X: Tensor, *parameters: Tensor) -> Tensor:
    _, p1, back, _ = _field_slopes(X, *parameters)
    return (p1 * back) @ parameters[0]


def _field_hessian(X: Tensor, *parameters: Tensor) -> Tensor:
    W1, _, W2, *_ = parameters
    s1, p1, back, bend = _field_slopes(X, *parameters)
    first = torch.einsum("nh,hi,hj->nij", -2 * s1 * p1 * back, W1, W1)
    columns = W2 @ (p1[:, :, None] * W1)
    return first + torch.einsum("nh,nhi,nhj->nij", bend, columns, columns)


def _field_diagonal(X: Tensor, *parameters: Tensor) -> Tensor:
    """The diagonals of the hessians, without the rest of them."""
    W1, _, W2, *_ = parameters
    s1, p1, back, bend = _field_slopes(X, *parameters)
    columns = W2 @ (p1[:, :, None] * W1)
    return (-2 * s1 * p1 * back) @ W1**2 + torch.einsum("nh,nhi->ni", bend, columns**2)


def _draw_field(size: Size, generator: torch.Generator) -> Tensors:
    N, d, h = size["N"], size["d"], size["h"]
    return (
        normal(generator, N, d),
        normal(generator, h, d) / d**0.5,
        normal(generator, h),
        normal(generator, h, h) / h**0.5,
        normal(generator, h),
        normal(generator, h) / h**0.5,
    )


declare(
    "network_field",
    formula="w₃·tanh(W₂ tanh(W₁x + b₁) + b₂) of each of N points, X (N, d); parameters constant",
    derivative="W₁ᵀ(s₁′∘W₂ᵀ(s₂′∘w₃)); hessian W₁ᵀ diag(s₁″∘W₂ᵀ(s₂′∘w₃))W₁ + Cᵀ diag(s₂″∘w₃)C, "
    "C = W₂ diag(s₁′)W₁",
    forward=network_field,
    draw=_draw_field,
    derivatives={
        "batch_jacobian": _field_gradient,
        "batch_hessian": _field_hessian,
        "hessian_diagonal": _field_diagonal,
        "laplacian": lambda X, *parameters: _field_diagonal(X, *parameters).sum(1),
        "vjp": lambda v, X, *parameters: v[:, None] * _field_gradient(X, *parameters),
        "jvp": lambda t, X, *parameters: (_field_gradient(X, *parameters) * t[0]).sum(1),
    },
    inputs=("X",),
    constants=("W1", "b1", "W2", "b2", "w3"),
    dtype="float32",
    example={"N": 6, "d": 2, "h": 3},
    sizes=({"N": 32, "d": 4, "h": 16}, {"N": 256, "d": 10, "h": 64}),
    large_sizes=({"N": 256, "d": 100, "h": 64},),
)


# Batch norm of images and layer norm of tokens, torch's own (S. Ioffe, C. Szegedy, 2015; J. L. Ba,
# J. R. Kiros, G. E. Hinton, 2016): x̂ = (x − μ)/√(σ² + ε) over all but the channels, or over the
# features; y = γx̂ + β. The catalogue's batch_norm writes the operations out.

EPS = 1e-5


def batch_norm_images(X: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return functional.batch_norm(X, None, None, gamma, beta, training=True, eps=EPS)


def layer_norm(X: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return functional.layer_norm(X, X.shape[-1:], gamma, beta, eps=EPS)


def _normalising(
    over: tuple[int, ...], apart: tuple[int, ...], shape: tuple[int, ...]
) -> dict[str, Formula]:
    """The products of a norm with means over some dimensions, whose γ and β have a number for each
    of those `apart` from the dimensions that they are summed over; `shape` is theirs against X."""

    def normalised(X: Tensor) -> Tensors:
        centred = X - X.mean(over, keepdim=True)
        scale = torch.rsqrt((centred**2).mean(over, keepdim=True) + EPS)
        return centred * scale, scale

    def without(moved: Tensor, unit: Tensor, scale: Tensor) -> Tensor:
        """What the normalisation lets through: not the mean, nor the part along x̂."""
        along = unit * (unit * moved).mean(over, keepdim=True)
        return scale * (moved - moved.mean(over, keepdim=True) - along)

    def vjp(v: Tensor, X: Tensor, gamma: Tensor, beta: Tensor) -> Tensors:
        unit, scale = normalised(X)
        dX = without(v * gamma.reshape(shape), unit, scale)
        return dX, (v * unit).sum(apart), v.sum(apart)

    def jvp(t: Tensors, X: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        unit, scale = normalised(X)
        moved = gamma.reshape(shape) * without(t[0], unit, scale)
        return moved + t[1].reshape(shape) * unit + t[2].reshape(shape)

    return {"vjp": vjp, "jvp": jvp}


def _draw_norm(shape: tuple[int, ...], width: int, generator: torch.Generator) -> Tensors:
    return (
        normal(generator, *shape),
        uniform(generator, width, low=0.5, high=1.5),
        normal(generator, width),
    )


declare(
    "batch_norm_images",
    formula="γ_c (X − μ_c)/√(σ_c² + ε) + β_c, μ and σ² of a channel over N images of h × w pixels",
    derivative="dX = γ/√(σ² + ε) ∘ (v − mean v − x̂ mean(v∘x̂)), dγ = Σ v∘x̂, dβ = Σ v",
    forward=batch_norm_images,
    draw=lambda size, generator: _draw_norm(
        (size["N"], size["c"], size["h"], size["w"]), size["c"], generator
    ),
    derivatives=_normalising((0, 2, 3), (0, 2, 3), (-1, 1, 1)),
    inputs=("X", "gamma", "beta"),
    dtype="float32",
    example={"N": 4, "c": 2, "h": 3, "w": 5},
    sizes=({"N": 8, "c": 16, "h": 8, "w": 8}, {"N": 16, "c": 64, "h": 14, "w": 14}),
    large_sizes=({"N": 32, "c": 64, "h": 56, "w": 56},),
)
declare(
    "layer_norm",
    formula="γⱼ (Xᵢⱼ − μᵢ)/√(σᵢ² + ε) + βⱼ, μ and σ² of each of N tokens over its d features",
    derivative="dX = (γ∘v − mean(γ∘v) − x̂ mean(γ∘v∘x̂))/√(σ² + ε), dγ = Σ v∘x̂, dβ = Σ v",
    forward=layer_norm,
    draw=lambda size, generator: _draw_norm((size["N"], size["d"]), size["d"], generator),
    derivatives=_normalising((1,), (0,), (-1,)),
    inputs=("X", "gamma", "beta"),
    dtype="float32",
    example={"N": 4, "d": 3},
    sizes=({"N": 64, "d": 64}, {"N": 512, "d": 768}),
    large_sizes=({"N": 4096, "d": 1024},),
)

"""Networks: fully connected, convolutional and recurrent ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradbench.studies.corpus import declare, example

rand, randn, randint = torch.rand, torch.randn, torch.randint


class Loss(nn.Module):
    """The mean squared output of a network, or its cross-entropy where labels are given."""

    def __init__(self, *layers: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.net = nn.Sequential(*layers)
        generator = torch.Generator().manual_seed(len(list(self.parameters())))
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    spread = scale / parameter[0].numel() ** 0.5
                    parameter.copy_(spread * randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        y: Tensor = self.net(x)
        return y.square().mean() if labels is None else F.cross_entropy(y, labels)


mlp = declare(
    "mlp",
    "regression network",
    Loss(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2)),
    lambda: (randn(12, 4),),
)
saturated_mlp = declare(
    "saturated_mlp",
    "trained network, saturated",
    Loss(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 1), scale=4),
    lambda: (2 * randn(16, 4),),
)
relu_classifier = declare(
    "relu_classifier",
    "classifier, ReLU",
    Loss(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3), scale=2),
    lambda: (randn(20, 4), randint(3, (20,))),
)
batch_norm = declare(
    "batch_norm",
    "batch normalisation",
    Loss(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ELU(), nn.Linear(6, 3)),
    lambda: (randn(14, 4), randint(3, (14,))),
)
dropout = declare(
    "dropout",
    "dropout while training",
    Loss(nn.Linear(5, 8), nn.Dropout(0.3), nn.Softplus(), nn.Linear(8, 1)),
    lambda: (randn(10, 5),),
)
group_norm = declare(
    "group_norm",
    "convolutions, group normalisation",
    Loss(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 1, 2)),
    lambda: (randn(3, 2, 6, 6),),
)
prelu = declare(
    "prelu",
    "learned slopes",
    Loss(nn.Linear(4, 7), nn.PReLU(7), nn.Linear(7, 2), nn.LeakyReLU(0.1)),
    lambda: (randn(15, 4),),
)


@example(
    "convolutional network",
    lambda: (randn(3, 1, 3, 3) / 2, randn(12, 4) / 3, randn(5, 1, 6, 6), randint(4, (5,))),
    ("kernel", "head"),
)
def lenet(kernel: Tensor, head: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    features = F.max_pool2d(F.relu(F.conv2d(images, kernel)), 2)
    return F.cross_entropy(features.flatten(1) @ head, labels)


@example("convolutional network, by the image", lambda: (randn(1, 2, 6, 6), randn(3, 2, 3, 3) / 3))
def feature_maps(image: Tensor, kernel: Tensor) -> Tensor:
    return F.avg_pool2d(F.softplus(F.conv2d(image, kernel, padding=1)), 3).sum((0, 2, 3))


@example(
    "dilated convolutions",
    lambda: (randn(2, 2, 3) / 2, randn(2, 2, 3) / 2, randn(1, 2, 14)),
    ("first", "second"),
)
def wavenet(first: Tensor, second: Tensor, signal: Tensor) -> Tensor:
    gate = torch.sigmoid(F.conv1d(signal, first, padding=2, dilation=2))
    return (torch.tanh(F.conv1d(signal, second, padding=4, dilation=4)) * gate).square().mean()


@example(
    "transposed convolution",
    lambda: (randn(2, 2, 4, 4), randn(2, 1, 3, 3) / 2, rand(2, 1, 9, 9)),
    ("codes", "kernel"),
)
def decoder(codes: Tensor, kernel: Tensor, images: Tensor) -> Tensor:
    drawn = F.conv_transpose2d(codes, kernel, stride=2)
    return F.binary_cross_entropy_with_logits(drawn, images)


@example(
    "depthwise convolution, gram matrix",
    lambda: (randn(1, 3, 5, 5), randn(3, 1, 3, 3) / 2),
    ("image",),
)
def style(image: Tensor, kernel: Tensor) -> Tensor:
    features = F.conv2d(image, kernel, padding=1, groups=3)
    features = F.instance_norm(features).flatten(2)[0]
    return (features @ features.T / 25 - 0.5).square().sum()


@example(
    "recurrent network",
    lambda: (randn(4, 4), randn(4, 3) / 2, randn(4) / 4, randn(9, 2, 3)),
    ("recurrent", "inward", "bias"),
)
def elman(recurrent: Tensor, inward: Tensor, bias: Tensor, words: Tensor) -> Tensor:
    state = words.new_zeros(words.shape[1], 4)
    for word in words:
        state = torch.tanh(state @ recurrent.T + word @ inward.T + bias)
    return state.square().sum(1).mean()


class Cells(nn.Module):
    """The squared last state of a recurrent cell after a sequence of inputs."""

    def __init__(self, cell: nn.LSTMCell | nn.GRUCell) -> None:
        super().__init__()
        self.cell = cell
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in cell.parameters():
                parameter.copy_(0.7 * randn(parameter.shape, generator=generator))

    def forward(self, sequence: Tensor) -> Tensor:
        state = None
        for each in sequence:
            state = self.cell(each, state)
        last = state[0] if isinstance(state, tuple) else state
        assert last is not None
        return last.square().sum()


lstm = declare("lstm", "LSTM", Cells(nn.LSTMCell(3, 3)), lambda: (randn(7, 2, 3),))
gru = declare("gru", "GRU", Cells(nn.GRUCell(2, 3)), lambda: (randn(6, 2, 2),))


@example(
    "word vectors",
    lambda: (randn(8, 3), randint(8, (12,)), randint(8, (12,)), randint(8, (12, 3))),
)
def skip_gram(vectors: Tensor, words: Tensor, contexts: Tensor, others: Tensor) -> Tensor:
    word = vectors[words]
    near = (word * F.embedding(contexts, vectors)).sum(1)
    far = torch.einsum("nd,nkd->nk", word, vectors[others])
    return -F.logsigmoid(near).mean() - F.logsigmoid(-far).mean()


@example(
    "variational autoencoder",
    lambda: (randn(4, 6) / 2, randn(2, 6) / 2, randn(10, 6), randn(10, 2)),
    ("encoder", "decoder"),
)
def vae(encoder: Tensor, decoder: Tensor, x: Tensor, noise: Tensor) -> Tensor:
    mean, log_scale = (x @ encoder.T).chunk(2, 1)
    drawn = mean + noise * log_scale.exp()
    apart = (drawn @ decoder - x).square().sum(1) / 2
    divergence = (mean.square() + (2 * log_scale).exp()).sum(1) / 2 - log_scale.sum(1)
    return (apart + divergence).mean()


@example("normalising flow", lambda: (randn(6, 2) / 2, randn(4, 6) / 2, randn(11, 4)), ("u", "w"))
def coupling_flow(u: Tensor, w: Tensor, x: Tensor) -> Tensor:
    kept, moved = x.chunk(2, 1)
    log_scale, shift = (torch.relu(kept @ u.T) @ w.T).chunk(2, 1)
    moved = moved * log_scale.tanh().exp() + shift
    return (kept.square() + moved.square()).sum() / 22 - log_scale.tanh().sum() / 11


@example(
    "losses of a network, by its weights",
    lambda: (randn(3, 4) / 2, randn(3), randn(6, 4), randn(6)),
    ("hidden", "out"),
)
def sample_losses(hidden: Tensor, out: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (torch.tanh(x @ hidden.T) @ out - y).square()

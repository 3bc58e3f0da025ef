"""Float32 errors of reverse mode as shares of what the gate allows: see docs/correctness.md."""

import torch
import torch.nn.functional as F

from gradbench.problems.arguments import Arguments
from gradbench.worker.allowance import Allowance


def recurrence(x):
    h = torch.zeros_like(x)
    for _ in range(60):
        h = torch.tanh(w[:5, :5] @ h + x)
    return h


def runge_kutta(s):
    def lorenz(s):
        x, y, z = s.unbind()
        return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    for _ in range(30):
        s = s + 0.02 * lorenz(s + 0.01 * lorenz(s))
    return s


torch.manual_seed(0)
w = torch.randn(16, 16).double()
spd = w[:6, :6] @ w[:6, :6].T + torch.eye(6)
cases = {
    "tanh at 0.5, 4.5, 5": (torch.tanh, torch.tensor([0.5, 4.5, 5.0])),
    "sigmoid on linspace(-12, 12, 20)": (torch.sigmoid, torch.linspace(-12, 12, 20)),
    "log-softmax of 10, 0, 0.5": (
        lambda x: F.log_softmax(x, 0)[:1],
        torch.tensor([10.0, 0.0, 0.5]),
    ),
    "sum of softmax": (lambda x: F.softmax(x, 0).sum()[None], torch.tensor([0.3, -1.2, 2.0, 0.7])),
    "tanh(Wx), W 16x16 normal": (lambda x: torch.tanh(w @ x), torch.randn(16)),
    "60 steps of tanh(Wh + x)": (recurrence, torch.randn(5)),
    "30 Runge-Kutta steps (Lorenz)": (runge_kutta, torch.randn(3)),
    "layer norm": (lambda x: F.layer_norm(x, (8,)), 10 + torch.randn(8)),
    "logsumexp of 50": (lambda x: x.logsumexp(0)[None], 10 * torch.randn(50)),
    "inverse, 6x6": (
        lambda x: torch.linalg.inv(x.reshape(6, 6)).reshape(-1),
        spd.float().reshape(-1),
    ),
    "Cholesky, 6x6": (
        lambda x: torch.linalg.cholesky(x.reshape(6, 6)).reshape(-1),
        spd.float().reshape(-1),
    ),
    "variance of 100 + x": (lambda x: (100 + x).var()[None], torch.randn(100)),
}
print("| function | rounding of inputs only | Monte Carlo arithmetic |")
for name, (f, x) in cases.items():

    def jacobian(arguments, f=f):
        (x,) = arguments.inputs
        with torch.enable_grad():
            return (torch.autograd.functional.jacobian(f, x),)

    w = w.float()
    measured = jacobian(Arguments((x,), None))[0].double()
    w = w.double()
    rule = Allowance([jacobian], [], Arguments((x,), None), 1, (1,), 2.0**-23, torch.float32)
    error = (measured - rule.blocks[0]).abs()
    basis = rule.allowed(0)[0]
    drawn = rule.allowed(2)[0]
    before = basis + rule._without_intermediates()[0]
    shares = [float((error / allowed).max()) for allowed in (before, drawn)]
    print(f"| {name} | {shares[0]:.2g} | {shares[1]:.2g} |")

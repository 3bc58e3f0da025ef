"""Finance, filters, Gaussian processes, control, signals."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gradbench.studies.corpus import example

rand, randn = torch.rand, torch.randn


@example("Black–Scholes prices", lambda: (90 + 20 * rand(6), 100 * torch.ones(6), rand(6) + 0.1))
def black_scholes(spot: Tensor, strike: Tensor, volatility: Tensor) -> Tensor:
    d1 = ((spot / strike).log() + volatility.square() / 2 + 0.02) / volatility
    d2 = d1 - volatility

    def below(x: Tensor) -> Tensor:
        return torch.erfc(-x / math.sqrt(2)) / 2

    return spot * below(d1) - strike * math.exp(-0.02) * below(d2)


@example("Asian option, simulated", lambda: (torch.tensor([1.0, 0.3]), randn(40, 12)), ("market",))
def asian_option(market: Tensor, noise: Tensor) -> Tensor:
    start, volatility = market
    steps = volatility * noise / 3.46 - volatility.square() / 24
    paths = start * torch.exp(torch.cumsum(steps, 1))
    return F.relu(paths.mean(1) - 1).mean()


@example("portfolio, conditional value at risk", lambda: (randn(4), randn(50, 4)), ("weights",))
def portfolio(weights: Tensor, returns: Tensor) -> Tensor:
    losses = -(returns @ torch.softmax(weights, 0))
    return losses.topk(5).values.mean() + 0.1 * losses.var()


@example("yield curve", lambda: (randn(4), rand(8) * 10 + 0.2, randn(8)), ("curve",))
def nelson_siegel(curve: Tensor, years: Tensor, seen: Tensor) -> Tensor:
    scaled = years / F.softplus(curve[3])
    decay = -torch.expm1(-scaled) / scaled
    fitted = curve[0] + curve[1] * decay + curve[2] * (decay - torch.exp(-scaled))
    return (fitted - seen).square().sum()


@example(
    "Gaussian process, marginal likelihood",
    lambda: (randn(3) / 2, 3 * rand(10), randn(10)),
    ("logs",),
)
def gp_likelihood(logs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    length, scale, noise = logs.exp()
    near = scale * torch.exp(-((x[:, None] - x) ** 2) / (2 * length**2))
    factor = torch.linalg.cholesky(near + (noise + 1e-3) * torch.eye(10).to(x))
    whitened = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
    return whitened.square().sum() / 2 + factor.diagonal().log().sum()


@example("Kalman filter, likelihood", lambda: (randn(3) / 2, randn(12)), ("logs",))
def kalman(logs: Tensor, seen: Tensor) -> Tensor:
    drift, moving, noise = torch.tanh(logs[0]), logs[1].exp(), logs[2].exp()
    mean, spread = torch.zeros_like(drift), torch.ones_like(drift)
    lost = torch.zeros_like(drift)
    for value in seen:
        mean, spread = drift * mean, drift**2 * spread + moving
        total = spread + noise
        lost = lost + (total.log() + (value - mean) ** 2 / total) / 2
        gain = spread / total
        mean, spread = mean + gain * (value - mean), (1 - gain) * spread
    return lost


@example("Kalman filter, several states", lambda: (randn(3, 3) / 2, randn(8, 2)), ("a",))
def kalman_matrix(a: Tensor, seen: Tensor) -> Tensor:
    h = torch.tensor([[1.0, 0, 0], [0, 1, 1]]).to(a)
    mean, spread, lost = a.new_zeros(3), torch.eye(3).to(a), a.new_zeros(())
    for value in seen:
        mean, spread = a @ mean, a @ spread @ a.T + 0.1 * torch.eye(3).to(a)
        total = h @ spread @ h.T + 0.5 * torch.eye(2).to(a)
        apart = value - h @ mean
        lost = lost + torch.logdet(total) + apart @ torch.linalg.solve(total, apart)
        gain = torch.linalg.solve(total, h @ spread).T
        mean, spread = mean + gain @ apart, spread - gain @ h @ spread
    return lost


@example("optimal control, cart and pole", lambda: (randn(8), randn(4) / 5), ("forces",))
def cart_pole(forces: Tensor, start: Tensor) -> Tensor:
    x, speed, angle, spin = start
    cost = forces.new_zeros(())
    for force in forces:
        sin, cos = torch.sin(angle), torch.cos(angle)
        push = (force + 0.05 * spin**2 * sin) / 1.1
        bend = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
        x, speed = x + 0.05 * speed, speed + 0.05 * (push - 0.05 * bend * cos / 1.1)
        angle, spin = angle + 0.05 * spin, spin + 0.05 * bend
        cost = cost + x**2 + 2 * (1 - torch.cos(angle)) + 0.01 * force**2
    return cost


@example("spectrum", lambda: randn(24))
def spectrum(signal: Tensor) -> Tensor:
    window = 0.5 - 0.5 * torch.cos(torch.arange(24).to(signal) * (2 * math.pi / 24))
    return torch.fft.rfft(signal * window).abs().square()


@example("spectral flatness", lambda: randn(32))
def flatness(signal: Tensor) -> Tensor:
    power = torch.fft.rfft(signal, norm="ortho").abs().square() + 1e-3
    return power.log().mean() - power.mean().log()


@example("moving filter", lambda: (randn(7), randn(30)))
def moving_filter(taps: Tensor, signal: Tensor) -> Tensor:
    return F.conv1d(signal[None, None], taps[None, None])[0, 0]


@example("recursive filter", lambda: (randn(3) / 3, rand(2) / 2, randn(20)), ("b", "a"))
def recursive_filter(b: Tensor, a: Tensor, signal: Tensor) -> Tensor:
    out: list[Tensor] = [signal.new_zeros(())] * 2
    for n in range(2, 20):
        value = b[0] * signal[n] + b[1] * signal[n - 1] + b[2] * signal[n - 2]
        out.append(value - a[0] * out[-1] - a[1] * out[-2])
    return torch.stack(out).square().mean()


@example("wavelet thresholding", lambda: randn(16))
def haar_shrinkage(signal: Tensor) -> Tensor:
    pairs = signal.reshape(8, 2)
    coarse, fine = (pairs[:, 0] + pairs[:, 1]) / 2, (pairs[:, 0] - pairs[:, 1]) / 2
    return torch.stack([coarse, F.softshrink(fine, 0.4)], 1).flatten().square()


@example("synthesiser", lambda: (rand(3) * 5 + 1, randn(3), randn(40)), ("pitches", "gains"))
def synthesiser(pitches: Tensor, gains: Tensor, wanted: Tensor) -> Tensor:
    times = torch.linspace(0, 1, 40).to(pitches)
    tone = (gains[:, None] * torch.sin(6.2831853 * pitches[:, None] * times)).sum(0)
    return (torch.fft.rfft(tone).abs() - torch.fft.rfft(wanted).abs()).square().mean()


@example("matched filter", lambda: (randn(20), randn(20)))
def correlation(left: Tensor, right: Tensor) -> Tensor:
    left, right = left - left.mean(), right - right.mean()
    return (left * right).sum() / (left.norm() * right.norm())

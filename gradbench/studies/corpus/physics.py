"""Physics and chemistry: particles, fields, differential equations, optics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradbench.studies.corpus import declare, example

rand, randn = torch.rand, torch.randn


@example("Lennard-Jones energy", lambda: _lattice() + 0.05 * randn(8, 3))
def lennard_jones(places: Tensor) -> Tensor:
    i, j = torch.triu_indices(8, 8, 1)
    sixth = (places[i] - places[j]).square().sum(1) ** -3
    return 4 * (sixth.square() - sixth).sum()


def _lattice() -> Tensor:
    return 1.2 * torch.cartesian_prod(*[torch.arange(2.0)] * 3)


@example("Morse potential, forces", lambda: (randn(5, 3), rand(5, 5) + 0.5, rand(5, 5)))
def morse(places: Tensor, width: Tensor, depth: Tensor) -> Tensor:
    i, j = torch.triu_indices(5, 5, 1)
    apart = (places[i] - places[j]).norm(dim=1)
    return (depth[i, j] * (1 - torch.exp(-width[i, j] * (apart - 1))) ** 2).sum()


@example("three bodies, energy", lambda: (randn(3, 2), randn(3, 2), rand(3) + 0.5))
def three_bodies(places: Tensor, speeds: Tensor, masses: Tensor) -> Tensor:
    i, j = torch.triu_indices(3, 3, 1)
    apart = ((places[i] - places[j]).square().sum(1) + 1e-3).sqrt()
    moving = (masses * speeds.square().sum(1)).sum() / 2
    return moving - (masses[i] * masses[j] / apart).sum()


@example("three bodies, leapfrog steps", lambda: (2 * randn(3, 2), randn(3, 2) / 2))
def leapfrog(places: Tensor, speeds: Tensor) -> Tensor:
    for _ in range(6):
        apart = places[None] - places[:, None]
        pull = apart / (apart.square().sum(2, keepdim=True) + 0.05) ** 1.5
        speeds = speeds + 0.05 * pull.sum(1)
        places = places + 0.05 * speeds
    return torch.cat([places, speeds]).flatten()


@example("Ising chain, mean field", lambda: (randn(10), randn(10, 10) / 3))
def ising(fields: Tensor, couplings: Tensor) -> Tensor:
    spins = torch.tanh(fields)
    for _ in range(4):
        spins = torch.tanh(fields + (couplings + couplings.T) @ spins / 2)
    return -(fields * spins).sum() - (spins @ couplings @ spins) / 2


@example("planar spins", lambda: 6 * rand(5, 5))
def planar_spins(angles: Tensor) -> Tensor:
    across, along = (torch.cos(angles - angles.roll(1, axis)).sum() for axis in (0, 1))
    return -across - along


@example("Lotka–Volterra, Runge–Kutta", lambda: (rand(2) + 0.5, rand(4) + 0.3))
def lotka_volterra(start: Tensor, rates: Tensor) -> Tensor:
    def slope(state: Tensor) -> Tensor:
        prey, hunters = state
        a, b, c, d = rates
        return torch.stack([a * prey - b * prey * hunters, c * prey * hunters - d * hunters])

    state, h = start, 0.1
    for _ in range(4):
        k1 = slope(state)
        k2 = slope(state + h / 2 * k1)
        k3 = slope(state + h / 2 * k2)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(state + h * k3))
    return state


@example("reaction kinetics", lambda: (rand(3) + 0.2, rand(12)), ("rates",))
def kinetics(rates: Tensor, seen: Tensor) -> Tensor:
    most, half, decay = rates
    amount = torch.ones_like(most)
    lost = seen.new_zeros(())
    for value in seen:
        amount = amount - 0.1 * (most * amount / (half + amount) + decay * amount)
        lost = lost + (amount - value).square()
    return lost


@example("epidemic, fitted", lambda: (rand(2) * 0.5 + 0.1, rand(15)), ("rates",))
def epidemic(rates: Tensor, cases: Tensor) -> Tensor:
    well, ill = 1 - 0.01 * torch.ones_like(rates[0]), 0.01 * torch.ones_like(rates[0])
    curve = []
    for _ in cases:
        new, cured = rates[0] * well * ill, rates[1] * ill
        well, ill = well - new, ill + new - cured
        curve.append(ill)
    return (torch.stack(curve) - cases).square().mean()


@example("Burgers' equation, upwind", lambda: randn(40))
def burgers(u: Tensor) -> Tensor:
    steep = torch.where(u > 0, u - u.roll(1), u.roll(-1) - u)
    return u - 0.1 * u * steep + 0.02 * (u.roll(1) - 2 * u + u.roll(-1))


@example("heat equation, implicit step", lambda: (randn(12), rand(12) + 0.2))
def heat(u: Tensor, conductivity: Tensor) -> Tensor:
    flow = torch.diag(conductivity[:-1], 1) + torch.diag(conductivity[:-1], -1)
    return torch.linalg.solve(torch.diag(1 + flow.sum(1)) - flow, u).square().sum()


@example("wave equation", lambda: (randn(1, 1, 4, 4), randn(1, 1, 4, 4), rand(4, 4)))
def wave(now: Tensor, before: Tensor, speed: Tensor) -> Tensor:
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).to(now)[None, None]
    for _ in range(4):
        bent = F.conv2d(F.pad(now, (1, 1, 1, 1), mode="circular"), kernel)
        now, before = 2 * now - before + 0.2 * speed * bent, now
    return now.square().sum()


@example("reaction–diffusion", lambda: (rand(4, 4), rand(4, 4)))
def gray_scott(u: Tensor, v: Tensor) -> Tensor:
    def spread(x: Tensor) -> Tensor:
        return x.roll(1, 0) + x.roll(-1, 0) + x.roll(1, 1) + x.roll(-1, 1) - 4 * x

    for _ in range(3):
        u, v = (
            u + 0.16 * spread(u) - u * v * v + 0.035 * (1 - u),
            v + 0.08 * spread(v) + u * v * v - 0.1 * v,
        )
    return (u - v).square().mean()


@example("ground state of an oscillator", lambda: rand(8), ())
def ground_state(well: Tensor) -> Tensor:
    hop = torch.diag(torch.ones(7).to(well), 1)
    return torch.linalg.eigvalsh(2 * torch.eye(8).to(well) - hop - hop.T + torch.diag(well))[0]


class Informed(nn.Module):
    """The residual of Poisson's equation, which differentiates a network by its points."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(1, 8), nn.Linear(8, 1)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        u = self.outer(torch.tanh(self.inner(x)))
        (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (bent,) = torch.autograd.grad(du.sum(), x, create_graph=True)
        return (bent + torch.sin(x)).square().mean() + u[0].square().sum()


informed = declare("informed", "physics-informed network", Informed(), lambda: (rand(12, 1),))


@example(
    "Hamiltonian network", lambda: (randn(5, 2), randn(5), randn(6, 2), randn(6, 2)), ("w", "a")
)
def hamiltonian(w: Tensor, a: Tensor, states: Tensor, slopes: Tensor) -> Tensor:
    states = states.detach().requires_grad_()
    energy = (torch.tanh(states @ w.T) @ a).sum()
    (steep,) = torch.autograd.grad(energy, states, create_graph=True)
    turned = torch.stack([steep[:, 1], -steep[:, 0]], 1)
    return (turned - slopes).square().mean()


@example("light through a lens", lambda: (rand(3) / 5 + 0.4, rand(10) / 2 - 0.25), ("lens",))
def lens_system(lens: Tensor, heights: Tensor) -> Tensor:
    first, second, gap = lens
    height, angle = heights, torch.zeros_like(heights)
    for bend, index in ((first, 1.5), (-second, 1 / 1.5)):
        normal = torch.asin(height * bend)
        angle = torch.asin(torch.sin(angle + normal) / index) - normal
        height = height + gap * torch.tan(angle)
    return (height + 2 * torch.tan(angle)).square().mean()


@example("thin films, reflectance", lambda: (rand(4) + 0.5, rand(9) * 3 + 1), ("layers",))
def thin_films(layers: Tensor, waves: Tensor) -> Tensor:
    field = torch.ones_like(waves) + 0j
    other = 1.5 * torch.ones_like(waves) + 0j
    for number, layer in enumerate(layers):
        index = 2.1 if number % 2 else 1.4
        phase = waves * layer * index
        turn, side = torch.cos(phase), torch.sin(phase)
        field, other = (
            turn * field + 1j * side * other / index,
            turn * other + 1j * index * side * field,
        )
    r = (field - other) / (field + other)
    return (r.real.square() + r.imag.square()).mean()


@example("diffraction", lambda: 6 * rand(6, 6))
def diffraction(phases: Tensor) -> Tensor:
    far = torch.fft.fft2(torch.polar(torch.ones_like(phases), phases), norm="ortho")
    return far.abs().square()[:2, :2].flatten()


@example("absorption along a ray", lambda: (rand(16) * 2, rand(16)))
def absorption(density: Tensor, emission: Tensor) -> Tensor:
    through = torch.exp(-torch.cumsum(density, 0) * 0.3)
    return (through * emission * density).sum()

"""Residuals and a step in time: functions of many values, each with its inputs and an expert's
derivative. See `functions.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradbench.studies.experts.functions import Given, _draw

# Bundle adjustment: the residuals of many observations, each of one camera and one point.

CAMERAS, POINTS, OBSERVATIONS = 12, 120, 600


def _which(most: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(most, (OBSERVATIONS,), generator=generator)


_CAMERA, _POINT = _which(CAMERAS, 22), _which(POINTS, 23)


def _projected(camera: Tensor, point: Tensor) -> Tensor:
    """Where cameras (M, 9) see points (M, 3), with a radial distortion: (M, 2)."""
    turn, shift, focal, radial = camera[:, :3], camera[:, 3:6], camera[:, 6:7], camera[:, 7:]
    placed = point + torch.linalg.cross(turn, point) + shift
    plane = placed[:, :2] / (placed[:, 2:] + 6)
    square = (plane * plane).sum(1, keepdim=True)
    seen: Tensor = (1 + focal) * plane * (1 + square * (radial[:, :1] + square * radial[:, 1:]))
    return seen


def bundle(cameras: Tensor, points: Tensor) -> Tensor:
    """The residuals (M, 2) of cameras (12, 9) and points (120, 3)."""
    return _projected(cameras[_CAMERA], points[_POINT])


def bundle_inputs() -> Given:
    return {"cameras": 0.1 * _draw(CAMERAS, 9, seed=20), "points": _draw(POINTS, 3, seed=21)}


def bundle_expert(cameras: Tensor, points: Tensor) -> Any:
    """Each observation depends on its own camera and point: these are gathered first, two
    pullbacks are the jacobians by them, and indices put these in place."""
    c, p = cameras[_CAMERA].requires_grad_(), points[_POINT].requires_grad_()
    y = _projected(c, p)
    by_cameras = y.new_zeros(*y.shape, *cameras.shape)
    by_points = y.new_zeros(*y.shape, *points.shape)
    each = torch.arange(len(y))
    for k in (0, 1):
        at_c, at_p = torch.autograd.grad(y[:, k].sum(), (c, p), retain_graph=k == 0)
        by_cameras[each, k, _CAMERA] = at_c
        by_points[each, k, _POINT] = at_p
    return by_cameras, by_points


# The same with a weight per observation, and the regularisation of the weights stacked below.


def stacked(cameras: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Weighted residuals and 1 − w² for each weight, one vector of 3 M numbers."""
    residuals = weights[:, None] * _projected(cameras[_CAMERA], points[_POINT])
    return torch.cat([residuals.reshape(-1), 1 - weights**2])


def stacked_inputs() -> Given:
    return bundle_inputs() | {"weights": 1 + 0.1 * _draw(OBSERVATIONS, seed=24)}


def stacked_expert(cameras: Tensor, points: Tensor, weights: Tensor) -> Any:
    """As for bundle adjustment; the regularisation has a diagonal of its own."""
    c, p = cameras[_CAMERA].requires_grad_(), points[_POINT].requires_grad_()
    w = weights.detach().requires_grad_()
    y = w[:, None] * _projected(c, p)
    m = len(y)
    blocks = [y.new_zeros(3 * m, x.numel()) for x in (cameras, points, weights)]
    each = torch.arange(m)
    for k in (0, 1):
        grads = torch.autograd.grad(y[:, k].sum(), (c, p, w), retain_graph=k == 0)
        rows = 2 * each + k
        blocks[0].view(3 * m, *cameras.shape)[rows, _CAMERA] = grads[0]
        blocks[1].view(3 * m, *points.shape)[rows, _POINT] = grads[1]
        blocks[2][rows, each] = grads[2]
    (slope,) = torch.autograd.grad((1 - w**2).sum(), w)
    blocks[2][2 * m + each, each] = slope
    return tuple(
        block.view(3 * m, *x.shape) for block, x in zip(blocks, (cameras, points, weights))
    )


# An arrow matrix: each value depends on its own number and a shared one, one value on all numbers.


def arrow(x: Tensor) -> Tensor:
    """The conditions of a coupled system, (n,): x₀ is shared by all, and the first row sums."""
    own = x[1:] ** 3 + x[0] * torch.sin(x[1:])
    return torch.cat([torch.sum(x * x)[None], own])


def arrow_inputs() -> Given:
    return {"x": _draw(400, seed=25)}


def arrow_expert(x: Tensor) -> Tensor:
    """The first row by reverse mode, and the others by two pushforwards: along the first number,
    and along all others at once."""
    n = len(x)
    leaf = x.detach().requires_grad_()
    (row,) = torch.autograd.grad(arrow(leaf)[0], leaf)
    first = torch.zeros_like(x)
    first[0] = 1
    seeds = torch.stack([first, 1 - first])
    column, diagonal = torch.func.vmap(lambda t: torch.func.jvp(arrow, (x,), (t,))[1])(seeds)
    dense = torch.diag(diagonal)
    dense[:, 0] = column
    dense[0] = row
    return dense.reshape(n, n)


# A step in time: how the state after a Runge-Kutta step depends on the state before.


def ode_step(state: Tensor) -> Tensor:
    """One step of length 0.02 of the classical Runge-Kutta method for Lorenz' model of 1996, shape
    (n,): dxᵢ/dt = (xᵢ₊₁ − xᵢ₋₂) xᵢ₋₁ − xᵢ + 8, on a ring."""

    def rate(x: Tensor) -> Tensor:
        return (x.roll(-1) - x.roll(2)) * x.roll(1) - x + 8

    h = 0.02
    k1 = rate(state)
    k2 = rate(state + h / 2 * k1)
    k3 = rate(state + h / 2 * k2)
    k4 = rate(state + h * k3)
    return state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def ode_step_inputs() -> Given:
    return {"state": 3 * _draw(40, seed=26) + 2}


def ode_step_expert(state: Tensor) -> Any:
    """As many rows as columns, and no zeros to speak of: all columns in one batched pass."""
    return torch.func.jacfwd(ode_step)(state)


# Hand tracking: a hundred points on a hand by 26 numbers of its pose.

BONES, PER_BONE = 20, 5
_OFFSETS = _draw(BONES, 3, seed=27)
_SKIN = _draw(BONES, PER_BONE, 3, seed=28)


def hand(pose: Tensor, skin: Tensor) -> Tensor:
    """Points (300,) on five fingers of four bones. The pose has 3 numbers of the wrist's rotation,
    3 of its place and 20 of the joints; each bone turns about its parent's end."""
    wrist = _turned(pose[0], 0) @ _turned(pose[1], 1) @ _turned(pose[2], 2)
    offsets, placed = _OFFSETS.to(pose), []
    for finger in range(5):
        turn, end = wrist, pose[3:6]
        for bone in range(4):
            number = 4 * finger + bone
            turn = turn @ _turned(pose[6 + number], bone % 2)
            placed.append(skin[number] @ turn.T + end)
            end = end + turn @ offsets[number]
    return torch.cat(placed).reshape(-1)


def _turned(angle: Tensor, axis: int) -> Tensor:
    """The rotation matrix (3, 3) about an axis."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = ([one, zero, zero, zero, cos, -sin, zero, sin, cos],
            [cos, zero, sin, zero, one, zero, -sin, zero, cos],
            [cos, -sin, zero, sin, cos, zero, zero, zero, one])  # fmt: skip
    return torch.stack(rows[axis]).reshape(3, 3)


def hand_inputs() -> Given:
    return {"pose": 0.3 * _draw(26, seed=29), "skin": _SKIN}


def hand_expert(pose: Tensor, skin: Tensor) -> Any:
    """Few inputs and many outputs: all columns in one batched pass of forward mode."""
    return torch.func.jacfwd(hand)(pose, skin)

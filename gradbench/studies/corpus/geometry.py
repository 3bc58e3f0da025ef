"""Vision, robotics, rendering and graphs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gradbench.studies.corpus import example

rand, randn, randint = torch.rand, torch.randn, torch.randint

_camera_of = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
_point_of = torch.tensor([0, 1, 2, 1, 2, 3, 0, 3, 4, 5])


@example("bundle adjustment", lambda: (randn(3, 7) / 10, randn(6, 3)))
def bundle(cameras: Tensor, points: Tensor) -> Tensor:
    c, p = cameras[_camera_of], points[_point_of]
    turned = p + torch.cross(c[:, :3], p, dim=1) + c[:, 3:6]
    flat = turned[:, :2] / (turned[:, 2:] + 5)
    return ((1 + c[:, 6:]) * flat * (1 + 0.1 * flat.square().sum(1, keepdim=True))).flatten()


@example("robot arm", lambda: (3 * randn(6), rand(6) + 0.2))
def robot_arm(angles: Tensor, lengths: Tensor) -> Tensor:
    total = torch.cumsum(angles, 0)
    return torch.stack([(lengths * total.cos()).sum(), (lengths * total.sin()).sum()])


@example("rotation from a vector", lambda: (randn(3), randn(5, 3)))
def rotated(turn: Tensor, points: Tensor) -> Tensor:
    angle = (turn.square().sum() + 1e-12).sqrt()
    axis = (turn / angle).expand_as(points)
    along = axis * (axis * points).sum(1, keepdim=True)
    across = torch.cross(axis, points, dim=1)
    return along + (points - along) * angle.cos() + across * angle.sin()


@example("quaternion", lambda: (randn(4), randn(4, 3)))
def quaternion(q: Tensor, points: Tensor) -> Tensor:
    q = q / q.norm()
    w, v = q[0], q[1:].expand_as(points)
    half = 2 * torch.cross(v, points, dim=1)
    return (points + w * half + torch.cross(v, half, dim=1)).flatten()


@example(
    "registration, point to plane", lambda: (randn(6) / 5, randn(9, 3), randn(9, 3)), ("pose",)
)
def registration(pose: Tensor, points: Tensor, normals: Tensor) -> Tensor:
    moved = points + torch.cross(pose[:3].expand_as(points), points, dim=1) + pose[3:]
    apart = ((moved - points.roll(1, 0)) * F.normalize(normals, dim=1)).sum(1)
    return (apart.square() / (1 + apart.square())).sum()


@example("homography", lambda: (torch.eye(3) + randn(3, 3) / 10, randn(7, 2), randn(7, 2)), ("h",))
def homography(h: Tensor, here: Tensor, there: Tensor) -> Tensor:
    mapped = torch.cat([here, torch.ones(7, 1).to(here)], 1) @ h.T
    return F.smooth_l1_loss(mapped[:, :2] / (mapped[:, 2:] + 3), there)


@example(
    "inverse kinematics, bone weights", lambda: (randn(4) / 2, randn(6, 2), rand(6, 4)), ("bends",)
)
def skinning(bends: Tensor, skin: Tensor, weights: Tensor) -> Tensor:
    angle = torch.cumsum(bends, 0)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(4, 2, 2)
    each = torch.einsum("bij,nj->nbi", turn, skin)
    share = weights / weights.sum(1, keepdim=True)
    return (share[..., None] * each).sum(1).flatten()


@example("volume rendering", lambda: (randn(4, 10), rand(4, 10, 3)))
def volume(raw: Tensor, colours: Tensor) -> Tensor:
    alpha = 1 - torch.exp(-F.softplus(raw) * 0.3)
    through = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha[:, :-1]], 1), 1)
    return ((alpha * through)[..., None] * colours).sum(1).square().mean()


@example("soft rasteriser", lambda: 2 * rand(3, 2))
def rasteriser(corners: Tensor) -> Tensor:
    line = torch.linspace(0.1, 1.9, 6).to(corners)
    pixels = torch.cartesian_prod(line, line)
    inside = torch.ones(36).to(corners)
    for i in range(3):
        a, b = corners[i], corners[(i + 1) % 3]
        edge, to = b - a, pixels - a
        inside = inside * torch.sigmoid(8 * (edge[0] * to[:, 1] - edge[1] * to[:, 0]))
    return (inside - 0.5).square().sum()


@example(
    "signed distances", lambda: (randn(4, 2), rand(4) / 2 + 0.1, randn(12, 2)), ("centres", "radii")
)
def signed_distance(centres: Tensor, radii: Tensor, points: Tensor) -> Tensor:
    each = (points[:, None] - centres).norm(dim=2) - radii
    return each.min(1).values.square().sum()


@example("image warping", lambda: (randn(2, 3) / 3, rand(1, 1, 6, 6)), ("affine",))
def warp(affine: Tensor, image: Tensor) -> Tensor:
    grid = F.affine_grid(affine[None], [1, 1, 5, 5], align_corners=False)
    return F.grid_sample(image, grid, align_corners=False).square().sum()


@example("image enlargement", lambda: (rand(1, 2, 4, 4), rand(1, 2, 8, 8)), ("small",))
def enlarged(small: Tensor, large: Tensor) -> Tensor:
    drawn = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    return (drawn - large).abs().mean()


@example("total variation", lambda: rand(6, 6))
def total_variation(image: Tensor) -> Tensor:
    right, down = image[:-1, 1:] - image[:-1, :-1], image[1:, :-1] - image[:-1, :-1]
    return (right.square() + down.square() + 1e-6).sqrt().sum()


_sources = torch.tensor([0, 1, 2, 3, 4, 5, 0, 2, 4, 1])
_targets = torch.tensor([1, 2, 3, 4, 5, 0, 3, 5, 1, 4])


@example("graph convolution", lambda: (randn(6, 3), randn(3, 4)))
def graph_convolution(nodes: Tensor, weights: Tensor) -> Tensor:
    sent = torch.zeros(6, 4).to(nodes).index_add(0, _targets, (nodes @ weights)[_sources])
    return torch.relu(sent + nodes @ weights).square().sum()


@example("graph attention", lambda: (randn(6, 3), randn(6)))
def graph_attention(nodes: Tensor, weights: Tensor) -> Tensor:
    pairs = torch.cat([nodes[_sources], nodes[_targets]], 1)
    strength = F.leaky_relu(pairs @ weights, 0.2).exp()
    total = torch.zeros(6).to(nodes).scatter_add(0, _targets, strength)
    share = strength / (total[_targets] + 1e-6)
    gathered = torch.zeros_like(nodes).index_add(0, _targets, share[:, None] * nodes[_sources])
    return F.elu(gathered).sum(1)


@example("graph, largest message", lambda: (randn(6, 3), randn(3, 3) / 2))
def graph_pooling(nodes: Tensor, weights: Tensor) -> Tensor:
    sent = torch.tanh(nodes @ weights)[_sources]
    index = _targets[:, None].expand_as(sent)
    return (
        torch.zeros(6, 3)
        .to(nodes)
        .scatter_reduce(0, index, sent, "amax", include_self=False)
        .sum(1)
    )


@example("spring layout", lambda: randn(6, 2))
def spring_layout(places: Tensor) -> Tensor:
    springs = (places[_sources] - places[_targets]).norm(dim=1)
    return (springs - 1).square().sum() + 0.1 * torch.pdist(places).reciprocal().sum()

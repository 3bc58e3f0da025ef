"""Vision: bundle adjustment, the reprojections of a batch of cameras, hand tracking."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.core.cases import Size
from gradbench.problems.catalogue.applications.declaring import declare, with_gauss_newton
from gradbench.problems.function import Tensors, normal, uniform, vector_valued

# The rotation of points by vectors, row by row (O. Rodrigues, 1840): with θ = ‖r‖, a = sin θ/θ and
# b = (1 − cos θ)/θ² it is Rp = cos θ p + a r×p + b (r·p) r. Drawn vectors are never zero.


def _coefficients(r: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    square = (r * r).sum(-1, keepdim=True)
    angle = torch.sqrt(square)
    cos = torch.cos(angle)
    return square, cos, torch.sin(angle) / angle, (1 - cos) / square


def rotated(r: Tensor, p: Tensor) -> Tensor:
    """The points p (…, 3) turned by the rotation vectors r (…, 3)."""
    _, cos, a, b = _coefficients(r)
    turned: Tensor = cos * p + a * torch.linalg.cross(r, p) + b * (r * p).sum(-1, keepdim=True) * r
    return turned


def _cross_matrix(r: Tensor) -> Tensor:
    """[r]×, of shape (…, 3, 3)."""
    x, y, z = r.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).reshape(*r.shape, 3)


def _rotation_blocks(r: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """∂(Rp)/∂r and ∂(Rp)/∂p = R, each (…, 3, 3), with dθ = r·dr/θ, da/dθ = (cos θ − a)/θ and
    db/dθ = (a − 2b)/θ."""
    square, cos, a, b = _coefficients(r)
    along = (r * p).sum(-1, keepdim=True)
    one = torch.eye(3, dtype=r.dtype, device=r.device)
    by_angle = (
        -a * p + (cos - a) / square * torch.linalg.cross(r, p) + (a - 2 * b) / square * along * r
    )
    by_r = by_angle[..., :, None] * r[..., None, :] - a[..., None] * _cross_matrix(p)
    by_r = by_r + b[..., None] * (r[..., :, None] * p[..., None, :] + along[..., None] * one)
    by_p = cos[..., None] * one + a[..., None] * _cross_matrix(r)
    return by_r, by_p + b[..., None] * r[..., :, None] * r[..., None, :]


# A camera of ADBench's bundle adjustment: rotation r, centre C, focal length f, principal point u
# and radial distortion κ, 11 numbers in this order.


def projected(camera: Tensor, point: Tensor) -> Tensor:
    """Where cameras (…, 11) see points (…, 3): (…, 2)."""
    r, centre, focal, principal, radial = camera.split((3, 3, 1, 2, 2), -1)
    seen = rotated(r, point - centre)
    plane = seen[..., :2] / seen[..., 2:]
    square = (plane * plane).sum(-1, keepdim=True)
    distortion = 1 + square * (radial[..., :1] + square * radial[..., 1:])
    placed: Tensor = focal * distortion * plane + principal
    return placed


def _projection_blocks(camera: Tensor, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is seen, (…, 2), and its derivatives by the camera, (…, 2, 11), and the point."""
    r, centre, focal, principal, radial = camera.split((3, 3, 1, 2, 2), -1)
    moved = point - centre
    seen = rotated(r, moved)
    depth = seen[..., 2:]
    plane = seen[..., :2] / depth
    square = (plane * plane).sum(-1, keepdim=True)
    k1, k2 = radial[..., :1], radial[..., 1:]
    distortion = 1 + square * (k1 + square * k2)
    two = torch.eye(2, dtype=camera.dtype, device=camera.device)
    by_seen = torch.cat((two.expand(*plane.shape, 2), -plane[..., None]), -1) / depth[..., None]
    slope = 2 * (k1 + 2 * square * k2)
    by_plane = distortion[..., None] * two + slope[..., None] * (
        plane[..., :, None] * plane[..., None, :]
    )
    by_moved_camera, turning = _rotation_blocks(r, moved)
    outer = focal[..., None] * by_plane @ by_seen
    by_point = outer @ turning
    distorted = distortion * plane
    by_radial = (focal * plane)[..., None] * torch.cat((square, square**2), -1)[..., None, :]
    parts = (
        outer @ by_moved_camera,
        -by_point,
        distorted[..., None],
        two.expand(*plane.shape, 2),
        by_radial,
    )
    return focal * distorted + principal, torch.cat(parts, -1), by_point


def _draw_cameras(generator: torch.Generator, count: int) -> Tensor:
    return torch.cat(
        (
            0.2 * uniform(generator, count, 3, low=0.5, high=1.5),
            uniform(generator, count, 2, low=-0.3, high=0.3),
            uniform(generator, count, 1, low=-5.0, high=-4.0),
            uniform(generator, count, 1, low=0.8, high=1.2),
            uniform(generator, count, 2, low=-0.1, high=0.1),
            uniform(generator, count, 2, low=-0.1, high=0.1),
        ),
        1,
    )


# Bundle adjustment: N observations, each of one camera and one point, with a weight that is drawn
# to one. ADBench lists which; here observation i is of camera ⌊i m/N⌋ and of point i mod n.


def _observed(cameras: Tensor, points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    i = torch.arange(len(weights), device=weights.device)
    return i * len(cameras) // len(weights), i % len(points)


def bundle_adjustment(cameras: Tensor, points: Tensor, weights: Tensor, features: Tensor) -> Tensor:
    """The residuals (3N,): cameras (m, 11), points (n, 3), weights (N,), features (N, 2)."""
    camera, point = _observed(cameras, points, weights)
    errors = weights[:, None] * (projected(cameras[camera], points[point]) - features)
    return torch.cat((errors.reshape(-1), 1 - weights**2))


def _bundle_blocks(
    cameras: Tensor, points: Tensor, weights: Tensor, features: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives of the reprojection errors by their own camera (N, 2, 11), point (N, 2, 3)
    and weight (N, 2)."""
    camera, point = _observed(cameras, points, weights)
    seen, by_camera, by_point = _projection_blocks(cameras[camera], points[point])
    w = weights[:, None, None]
    return w * by_camera, w * by_point, seen - features


def _bundle_jacobian(cameras: Tensor, points: Tensor, weights: Tensor, features: Tensor) -> Tensors:
    N = len(weights)
    i = torch.arange(N, device=weights.device)
    camera, point = _observed(cameras, points, weights)
    by_camera, by_point, by_weight = _bundle_blocks(cameras, points, weights, features)
    blocks = [weights.new_zeros(3 * N, *x.shape) for x in (cameras, points, weights)]
    for k in (0, 1):
        blocks[0][2 * i + k, camera] = by_camera[:, k]
        blocks[1][2 * i + k, point] = by_point[:, k]
        blocks[2][2 * i + k, i] = by_weight[:, k]
    blocks[2][2 * N + i, i] = -2 * weights
    return tuple(blocks)


def _bundle_vjp(
    v: Tensor, cameras: Tensor, points: Tensor, weights: Tensor, features: Tensor
) -> Tensors:
    N = len(weights)
    camera, point = _observed(cameras, points, weights)
    by_camera, by_point, by_weight = _bundle_blocks(cameras, points, weights, features)
    errors, drawn = v[: 2 * N].reshape(N, 2, 1), v[2 * N :]
    return (
        torch.zeros_like(cameras).index_add(0, camera, (errors * by_camera).sum(1)),
        torch.zeros_like(points).index_add(0, point, (errors * by_point).sum(1)),
        (errors[..., 0] * by_weight).sum(1) - 2 * weights * drawn,
    )


def _bundle_jvp(
    t: Tensors, cameras: Tensor, points: Tensor, weights: Tensor, features: Tensor
) -> Tensor:
    camera, point = _observed(cameras, points, weights)
    by_camera, by_point, by_weight = _bundle_blocks(cameras, points, weights, features)
    moved = (by_camera @ t[0][camera][..., None] + by_point @ t[1][point][..., None])[..., 0]
    errors = moved + by_weight * t[2][:, None]
    return torch.cat((errors.reshape(-1), -2 * weights * t[2]))


def _bundle_sparse(cameras: Tensor, points: Tensor, weights: Tensor, features: Tensor) -> Tensors:
    """The blocks of the jacobian with their entries alone: 11, 3 and 1 per row."""
    N = len(weights)
    i = torch.arange(N, device=weights.device)
    own = (*_observed(cameras, points, weights), i)
    rows = torch.stack((2 * i, 2 * i + 1), 1)
    found = []
    for x, of, block in zip(
        (cameras, points), own, _bundle_blocks(cameras, points, weights, features)
    ):
        k = torch.arange(x.shape[1], device=x.device)
        places = torch.broadcast_tensors(rows[:, :, None], of[:, None, None], k)
        index = torch.stack([place.reshape(-1) for place in places])
        size = (3 * N, *x.shape)
        found.append(
            torch.sparse_coo_tensor(index, block.reshape(-1), size, check_invariants=False)
        )
    by_weight = _bundle_blocks(cameras, points, weights, features)[2]
    index = torch.stack(
        (torch.cat((rows.reshape(-1), 2 * N + i)), torch.cat((i.repeat_interleave(2), i)))
    )
    values = torch.cat((by_weight.reshape(-1), -2 * weights))
    found.append(torch.sparse_coo_tensor(index, values, (3 * N, N), check_invariants=False))
    return tuple(found)


def _draw_bundle(size: Size, generator: torch.Generator) -> Tensors:
    m, n, N = size["m"], size["n"], size["N"]
    return (
        _draw_cameras(generator, m),
        uniform(generator, n, 3),
        uniform(generator, N, low=0.5, high=1.5),
        0.1 * normal(generator, N, 2),
    )


declare(
    "bundle_adjustment",
    formula="(wᵢ(project(camera, point) − fᵢ), 1 − wᵢ²) of N observations of n points by m "
    "cameras, project: Rodrigues' rotation, division by depth, radial distortion; f constant",
    derivative="a block per observation by its camera (2, 11), point (2, 3) and weight (2,); "
    "∂(Rp)/∂r by dθ = r·dr/θ; −2w on the diagonal below",
    forward=bundle_adjustment,
    draw=_draw_bundle,
    derivatives={
        **with_gauss_newton(
            vector_valued(jacobian=_bundle_jacobian, vjp=_bundle_vjp, jvp=_bundle_jvp)
        ),
        "jacobian_sparse": _bundle_sparse,
    },
    inputs=("cameras", "points", "weights"),
    constants=("features",),
    example={"m": 2, "n": 4, "N": 6},
    sizes=({"m": 3, "n": 20, "N": 60}, {"m": 10, "n": 100, "N": 400}),
    large_sizes=({"m": 20, "n": 200, "N": 1000},),
)


# The reprojections of a batch: each sample has a camera's pose (rotation and centre) and a point of
# its own, all share focal length, principal point and distortion.


def reprojection(pose: Tensor, point: Tensor, lens: Tensor) -> Tensor:
    """Where poses (…, 6) see points (…, 3) through one lens (5,): (…, 2)."""
    return projected(_camera(pose, lens), point)


def _camera(pose: Tensor, lens: Tensor) -> Tensor:
    return torch.cat((pose, lens.expand(*pose.shape[:-1], 5)), -1)


def _reprojection_blocks(pose: Tensor, point: Tensor, lens: Tensor) -> Tensors:
    _, by_camera, by_point = _projection_blocks(_camera(pose, lens), point)
    return by_camera[..., :6], by_point


def _reprojection_vjp(v: Tensor, pose: Tensor, point: Tensor, lens: Tensor) -> Tensors:
    by_pose, by_point = _reprojection_blocks(pose, point, lens)
    return (v[..., None] * by_pose).sum(-2), (v[..., None] * by_point).sum(-2)


def _reprojection_jvp(t: Tensors, pose: Tensor, point: Tensor, lens: Tensor) -> Tensor:
    by_pose, by_point = _reprojection_blocks(pose, point, lens)
    return (by_pose @ t[0][..., None] + by_point @ t[1][..., None])[..., 0]


def _draw_reprojection(size: Size, generator: torch.Generator) -> Tensors:
    cameras = _draw_cameras(generator, size["N"])
    return cameras[:, :6], uniform(generator, size["N"], 3), cameras[0, 6:].clone()


declare(
    "reprojection",
    formula="project(pose, point) of each of N samples through one lens, as in bundle_adjustment; "
    "the lens constant",
    derivative="blocks (2, 6) by the pose and (2, 3) by the point of each sample",
    forward=reprojection,
    draw=_draw_reprojection,
    derivatives={
        "batch_jacobian": _reprojection_blocks,
        "vjp": _reprojection_vjp,
        "jvp": _reprojection_jvp,
    },
    inputs=("pose", "point"),
    constants=("lens",),
    example={"N": 4},
    sizes=({"N": 100}, {"N": 10000}),
    large_sizes=({"N": 200000},),
)


# Hand tracking: 26 numbers pose a kinematic chain of a wrist and five fingers of three bones, which
# carries the points of a skin by linear blending; the residuals are their distances from targets.
# The derivative is the geometric jacobian of robotics (D. E. Whitney, 1972): a joint with the axis
# z at the place o moves every point x beyond it by z × (x − o). ADBench's hand has a mesh from a
# file; this one has the same joints and a skin that is drawn.

FINGERS, BONES = 5, 3
LENGTHS = (0.45, 0.3, 0.25)
BEYOND = (0, 0, 1, 2)
"""The first bone that each of a finger's four joints moves: two at its base, one at each other."""


def _rest(theta: Tensor) -> Tensor:
    """Where the bones begin in the rest pose, (5, 3, 3): fingers side by side, along y."""
    across = torch.arange(FINGERS, dtype=theta.dtype, device=theta.device) * 0.2 - 0.4
    along = torch.tensor((1.0, 1.0 + LENGTHS[0], 1.0 + LENGTHS[0] + LENGTHS[1]))
    along = along.to(theta.device, theta.dtype).expand(FINGERS, BONES)
    return torch.stack((across[:, None].expand(FINGERS, BONES), along, torch.zeros_like(along)), 2)


def _about(axis: int, angle: Tensor) -> Tensor:
    """The rotations about x (0) or z (2) by angles (5,): (5, 3, 3)."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    about_x = (one, zero, zero, zero, cos, -sin, zero, sin, cos)
    about_z = (cos, -sin, zero, sin, cos, zero, zero, zero, one)
    return torch.stack(about_z if axis else about_x, 1).reshape(-1, 3, 3)


def _skeleton(theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The wrist's rotation (3, 3), the fingers' after their first joint (5, 3, 3), the bones'
    rotations (5, 3, 3, 3) and where they begin (5, 3, 3)."""
    angles = theta[6:].reshape(FINGERS, 4)
    one = torch.eye(3, dtype=theta.dtype, device=theta.device)
    wrist = rotated(theta[:3].expand(3, 3), one).T
    first = wrist @ _about(0, angles[:, 0])
    base = first @ _about(2, angles[:, 1])
    middle = base @ _about(0, angles[:, 2])
    tip = middle @ _about(0, angles[:, 3])
    at_base = _rest(theta)[:, 0] @ wrist.T + theta[3:6]
    at_middle = at_base + LENGTHS[0] * base[..., 1]
    at_tip = at_middle + LENGTHS[1] * middle[..., 1]
    turns = torch.stack((base, middle, tip), 1)
    return wrist, first, turns, torch.stack((at_base, at_middle, at_tip), 1)


def _carried(theta: Tensor, skin: Tensor) -> tuple[Tensor, Tensor]:
    """The points (n, 3) as the wrist carries them, and as each bone does: (n, 5, 3, 3)."""
    wrist, _, turns, begins = _skeleton(theta)
    relative = skin[:, None, None] - _rest(theta)
    return skin @ wrist.T + theta[3:6], torch.einsum("fbij,nfbj->nfbi", turns, relative) + begins


def hand_tracking(theta: Tensor, skin: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    """The residuals (n, 3) of a pose (26,): skin and targets (n, 3), weights (n, 16) of the wrist
    and the bones. The pose is the wrist's rotation and place, then four angles per finger."""
    by_wrist, by_bones = _carried(theta, skin)
    blended = (weights[:, 1:].reshape(-1, FINGERS, BONES, 1) * by_bones).sum((1, 2))
    return weights[:, :1] * by_wrist + blended - targets


def _hand_jacobian(theta: Tensor, skin: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    wrist, first, turns, begins = _skeleton(theta)
    _, by_bones = _carried(theta, skin)
    share = weights[:, 1:].reshape(-1, FINGERS, BONES)
    # What lies beyond each bone's beginning: sums from the tip back.
    beyond = (share[..., None] * by_bones).flip(2).cumsum(2).flip(2)
    shares = share.flip(2).cumsum(2).flip(2)
    axes = torch.stack(
        (wrist[:, 0].expand(FINGERS, 3), first[..., 2], turns[:, 0, :, 0], turns[:, 1, :, 0]), 1
    )
    places = begins[:, BEYOND, :]
    arms = beyond[:, :, BEYOND] - shares[:, :, BEYOND, None] * places
    joints = torch.linalg.cross(axes.expand_as(arms), arms).reshape(-1, FINGERS * 4, 3)
    total = weights.sum(1)
    placed = hand_tracking(theta, skin, weights, torch.zeros_like(targets))
    in_wrist = (placed - total[:, None] * theta[3:6]) @ wrist
    by_turn, _ = _rotation_blocks(theta[:3].expand_as(in_wrist), in_wrist)
    one = torch.eye(3, dtype=theta.dtype, device=theta.device)
    return torch.cat((by_turn, total[:, None, None] * one, joints.transpose(1, 2)), 2)


def _draw_hand(size: Size, generator: torch.Generator) -> Tensors:
    n = size["n"]
    theta = torch.cat(
        (
            uniform(generator, 3, low=0.1, high=0.4),
            0.2 * normal(generator, 3),
            uniform(generator, 4 * FINGERS, low=-0.5, high=0.5),
        )
    )
    skin = torch.stack(
        (
            uniform(generator, n, low=-0.5, high=0.5),
            uniform(generator, n, low=0.0, high=2.0),
            uniform(generator, n, low=-0.1, high=0.1),
        ),
        1,
    )
    weights = torch.softmax(2 * normal(generator, n, 1 + FINGERS * BONES), 1)
    return theta, skin, weights, skin + 0.1 * normal(generator, n, 3)


declare(
    "hand_tracking",
    formula="Σ_b wᵢ_b (R_b(xᵢ − o⁰_b) + o_b) − yᵢ of n points x, R_b and o_b by the joints of a "
    "wrist and five fingers of three bones; x (n, 3), w (n, 16) and y (n, 3) constant",
    derivative="z × (x − o) of every point beyond a joint with the axis z at o",
    forward=hand_tracking,
    draw=_draw_hand,
    derivatives=with_gauss_newton(
        vector_valued(
            jacobian=_hand_jacobian,
            vjp=lambda v, *inputs: torch.einsum("ni,nij->j", v, _hand_jacobian(*inputs)),
            jvp=lambda t, *inputs: _hand_jacobian(*inputs) @ t[0],
        )
    ),
    inputs=("theta",),
    constants=("skin", "weights", "targets"),
    example={"n": 4},
    sizes=({"n": 20}, {"n": 200}),
    large_sizes=({"n": 1000},),
)

"""Monte Carlo arithmetic: what rounding in a narrower dtype does to a float64 result.

D. S. Parker, Monte Carlo Arithmetic: exploiting randomness in floating-point arithmetic (1997), as
in Verificarlo (Denis, de Oliveira Castro, Petit, 2016). Under `Rounding` every operation's float64
result is multiplied by 1 + u ξ, ξ uniform on [-1, 1], so that a result that cancels or amplifies
differs from draw to draw by about its rounding error.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gradbench.problems.dispatch import DispatchMode
from gradbench.worker.urgency import require_time


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


EXACT = _names(
    """
    neg abs sign sgn conj_physical _conj_physical relu threshold threshold_backward hardtanh
    hardtanh_backward clamp clamp_min clamp_max maximum minimum fmax fmin floor ceil round trunc
    frac fmod remainder floor_divide heaviside nan_to_num copysign where masked_fill
    masked_scatter masked_select clone copy _to_copy lift lift_fresh cat stack _stack _chunk_cat
    block_diag index _unsafe_index _unsafe_masked_index gather index_select take index_copy
    index_fill scatter fill zero full full_like zeros zeros_like ones ones_like empty_like eye
    rand_like randn_like new_zeros new_ones new_full new_empty new_empty_strided repeat flip roll
    rot90 tril triu diag_embed constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d select_scatter slice_scatter
    diagonal_scatter as_strided_scatter select_backward slice_backward diagonal_backward sort topk
    kthvalue median nanmedian mode max min amax amin aminmax cummax cummin max_pool2d_with_indices
    max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d max_unpool2d max_unpool3d
    embedding im2col _unsafe_view view_copy pixel_shuffle pixel_unshuffle channel_shuffle complex
    resize set unique_dim _unique2 unique_consecutive lu_unpack upsample_nearest1d
    upsample_nearest2d upsample_nearest3d hardshrink _foreach_neg _foreach_abs _foreach_sign
    _foreach_floor _foreach_ceil _foreach_round _foreach_trunc _foreach_frac _foreach_clamp_max
    _foreach_clamp_min _foreach_maximum _foreach_minimum _foreach_max _foreach_copy _foreach_zero
    _foreach_clone _efficientzerotensor _reshape_alias _pack_padded_sequence
    masked_scatter_backward unsafe_split unsafe_split_with_sizes split_copy split_with_sizes_copy
    eq ne lt le gt ge equal isnan isinf isfinite isposinf isneginf isclose allclose isin signbit
    logical_and logical_or logical_not logical_xor any all argmax argmin argsort nonzero
    count_nonzero searchsorted bucketize is_nonzero _local_scalar_dense
    """
)
"""Operations that move, choose or compare numbers: nothing is rounded."""

NARROWING = _names("copy _to_copy")
"""Of these, what rounds where the result's dtype is coarser than that of what is moved: a buffer
in float32 rounds the tangents that forward mode writes to it."""

LINEAR = _names(
    """
    mm bmm addmm addmv addbmm baddbmm addr mv dot vdot sum mean nansum cumsum trace convolution
    _convolution convolution_backward convolution_overrideable _slow_conv2d_forward
    _slow_conv2d_backward slow_conv3d_forward slow_conv_dilated2d slow_conv_dilated3d
    slow_conv_transpose2d slow_conv_transpose3d _conv_depthwise2d conv_depthwise3d conv_tbc
    _trilinear linear linear_backward scatter_add index_add index_put _index_put_impl put
    _unsafe_index_put _unsafe_masked_index_put_accumulate embedding_dense_backward
    _embedding_bag_dense_backward avg_pool2d avg_pool2d_backward avg_pool3d avg_pool3d_backward
    _adaptive_avg_pool2d _adaptive_avg_pool2d_backward _adaptive_avg_pool3d
    _adaptive_avg_pool3d_backward col2im unfold_backward reflection_pad1d_backward
    reflection_pad2d_backward reflection_pad3d_backward replication_pad1d_backward
    replication_pad2d_backward replication_pad3d_backward max_pool2d_with_indices_backward
    max_pool3d_with_indices_backward adaptive_max_pool2d_backward adaptive_max_pool3d_backward
    upsample_bilinear2d upsample_linear1d upsample_trilinear3d upsample_bilinear2d_backward
    upsample_linear1d_backward upsample_trilinear3d_backward upsample_nearest1d_backward
    upsample_nearest2d_backward upsample_nearest3d_backward
    """
)
"""Sums of products. A kernel may add in any order: its error is on the scale of the sum of the
terms' magnitudes, which is the operation itself of the arguments' magnitudes."""

PRODUCTS = _names("mm bmm mv dot vdot linear addmm addmv baddbmm addbmm")
"""Of these, the products: those that add one more number take it first."""

LANES = 64
"""So many terms are added without an error beyond that of the result: kernels add in blocks and in
lanes of a vector. The error of a sum of n numbers of one sign grows with the root of n (Higham and
Mary, A new approach to probabilistic rounding error analysis, 2019)."""

BASIC = _names(
    """
    add sub rsub mul div sqrt rsqrt reciprocal square pow exp exp2 expm1 log1p tanh sigmoid atan
    asinh sinh cosh erf leaky_relu leaky_relu_backward _prelu_kernel
    """
)
"""Elementwise operations whose result is right to a few units, whatever the arguments."""

COMPOSITE = _names(
    """
    tanh_backward logit logit_backward celu elu elu_backward logaddexp logaddexp2 logsumexp
    log_sigmoid_forward log_sigmoid_backward sigmoid_backward std std_mean var var_mean
    linalg_cross special_entr special_log_ndtr dist renorm glu glu_backward hardsigmoid hardswish
    hardswish_backward addcmul addcdiv lerp _euclidean_dist sinc softplus softplus_backward gelu
    gelu_backward silu silu_backward mish mish_backward _weight_norm_interface
    _prelu_kernel_backward _scaled_dot_product_flash_attention_for_cpu
    """
)
"""Operations of several, in which something may cancel: they run decomposed."""

COMPOSITE_PARTS = ("softmax", "_norm_", "batch_norm", "loss", "cross_entropy")

NORMWISE = (
    "linalg_",
    "_linalg_",
    "fft_",
    "_fft_",
    "cholesky",
    "_cholesky",
    "lu_",
    "geqrf",
    "ormqr",
)
"""Beginnings of the names of operations that are right for a matrix close by in norm (backward
stability: Higham, Accuracy and Stability of Numerical Algorithms, 2002, chapters 9, 10, 19, 24)."""


PUTS = (
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
)
"""Operations that write, or add, by indices."""

NORMS = (
    torch.ops.aten.linalg_vector_norm.default,
    torch.ops.aten._cdist_forward.default,
    torch.ops.aten._cdist_backward.default,
)
"""Operations that take the order of a norm."""


ORTHOGONAL = (
    "linalg_eig",
    "_linalg_eigh",
    "_linalg_svd",
    "linalg_qr",
    "linalg_householder",
    "ormqr",
)
"""Beginnings of the names of those of them whose results have orthonormal columns, or columns of
length 1: these too are right in norm only (chapter 19), and small entries may be all wrong."""


FLOAT32 = float(torch.finfo(torch.float32).eps)


class Kind(enum.Enum):
    """How an operation is rounded."""

    EXACT = enum.auto()
    """Not at all."""
    RESULT = enum.auto()
    """Its result is."""
    LINEAR = enum.auto()
    """Its result is, on the scale of what it adds up."""
    ARGUMENTS = enum.auto()
    """Its arguments are too: nothing is known about its kernel."""
    NORMWISE = enum.auto()
    """Its arguments are too, on the scale of their largest entry."""
    COMPOSITE = enum.auto()
    """It is decomposed, and its parts are rounded."""


@functools.cache
def _decompositions() -> Any:
    from torch._decomp import decomposition_table

    return decomposition_table


@functools.cache
def _base(func: Any) -> str:
    """The name of an operation, without the underscore of one that works in place."""
    name: str = func._schema.name.partition("::")[2]
    return name[:-1] if len(name) > 1 and name.endswith("_") and name[-2] != "_" else name


@functools.cache
def kind_of(func: Any) -> Kind:
    """How an operation of torch's dispatcher is rounded."""
    schema = func._schema
    name = _base(func)
    if func.namespace != "aten":
        return Kind.RESULT
    if any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns):
        return Kind.EXACT
    if torch.Tag.nondeterministic_seeded in func.tags:
        return Kind.EXACT
    if name in EXACT:
        return Kind.EXACT
    composite = name in COMPOSITE or any(part in f"{name}_" for part in COMPOSITE_PARTS)
    if composite and func in _decompositions():
        return Kind.COMPOSITE
    if name in LINEAR:
        return Kind.LINEAR
    if name in BASIC or name.removeprefix("_foreach_") in BASIC:
        return Kind.RESULT
    if name.startswith(NORMWISE) and "triangular" not in name and "vector_norm" not in name:
        return Kind.NORMWISE
    return Kind.ARGUMENTS


class Rounding(DispatchMode):
    """Rounds the float64 results of operations at random, by up to `unit` of their size.

    `dtype` is the dtype whose range they must fit: what overflows or underflows there does here.
    Views and whatever only moves numbers stay exact. A kernel of several operations is decomposed,
    so that what cancels inside it is rounded too. Raises Late where the time is up.
    """

    def __init__(self, unit: float, dtype: torch.dtype, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.unit = unit
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(seed)
        self.inside = 0
        """How many decompositions are being executed."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        require_time()
        kwargs = kwargs or {}
        kind = kind_of(func)
        if kind is Kind.EXACT or _only_moves(func, args, kwargs):
            result = func(*_each(self._constant, args), **_named(self._constant, kwargs))
            return self._into_narrower(func, args, result)
        if kind is Kind.COMPOSITE:
            with self, self._decomposing():
                result = _decompositions()[func](*args, **kwargs)
            if result is not NotImplemented:
                return result
            kind = Kind.ARGUMENTS
        magnitudes = None
        if kind is Kind.LINEAR:
            # What works in place writes to copies here.
            magnitudes = func(*_each(_magnitude, args), **_named(_magnitude, kwargs))
        if func._schema.is_mutable:
            return self._in_place(func, kind, args, kwargs, magnitudes)
        moved = self._moved if kind is Kind.ARGUMENTS else self._constant
        if kind is Kind.NORMWISE:
            moved = self._moved_by_norm
        result = func(*_each(moved, args), **_named(moved, kwargs))
        if kind is Kind.NORMWISE and _base(func).startswith(ORTHOGONAL):
            result = _each(self._moved_by_norm, result)
        if magnitudes is None:
            return _each(self._rounded, result)
        if isinstance(result, tuple):
            return tuple(
                self._added_up(r, m, _terms(func, args, r)) for r, m in zip(result, magnitudes)
            )
        return self._added_up(result, magnitudes, _terms(func, args, result))

    @contextlib.contextmanager
    def _decomposing(self) -> Iterator[None]:
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def _in_place(self, func: Any, kind: Kind, args: Any, kwargs: Any, magnitudes: Any) -> Any:
        """The operation, which writes to some arguments; these are rounded where they are, on the
        scale of `magnitudes` if it adds up."""
        written: list[Any] = []
        for argument, value in _bound(func, args, kwargs):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written += value if isinstance(value, (list, tuple)) else [value]
        kept = {id(tensor) for tensor in written}
        moved = {Kind.ARGUMENTS: self._moved, Kind.NORMWISE: self._moved_by_norm}.get(
            kind, self._constant
        )

        def moved_unless_written(value: Any) -> Any:
            return value if id(value) in kept else moved(value)

        result = func(*_each(moved_unless_written, args), **_named(moved_unless_written, kwargs))
        scales = magnitudes if isinstance(magnitudes, tuple) else (magnitudes,) * len(written)
        for tensor, scale in zip(written, scales):
            if not _real(tensor):
                continue
            if scale is None:
                tensor.copy_(self._rounded(tensor))
            else:
                tensor.copy_(self._added_up(tensor, scale, _terms(func, args, tensor)))
        return result

    def _into_narrower(self, func: Any, args: Any, result: Any) -> Any:
        """The result of an operation that moves numbers, rounded where they are moved to a dtype
        that is coarser than theirs and than the one that is measured."""
        if _base(func) not in NARROWING or not _real(result):
            return result
        moved = args[1] if func._schema.is_mutable else args[0]
        if not _real(moved) or _eps(result) <= max(_eps(moved), self.unit):
            return result
        if func._schema.is_mutable:
            return result.copy_(self._moved(result))
        return self._moved(result)

    def _noise(self, like: Tensor) -> Tensor:
        """Random numbers of up to `unit`, or up to that of the tensor's own dtype if it is coarser;
        complex ones where `like` is."""
        unit = max(self.unit, _eps(like))
        shape = (*like.shape, 2) if like.is_complex() else tuple(like.shape)
        noise = torch.empty(shape, dtype=torch.float64, device=like.device)
        noise.uniform_(-unit, unit, generator=self.generator)
        return (torch.view_as_complex(noise) if like.is_complex() else noise).to(like.dtype)

    def _rounded(self, value: Any) -> Any:
        return self._narrowed(self._moved(value)) if _real(value) else value

    def _added_up(self, value: Any, magnitude: Any, terms: float) -> Any:
        if not _real(value):
            return value
        # What is narrower than float32 is added up in float32.
        inside = min(self.unit, FLOAT32) * math.sqrt(terms / LANES)
        noise = self._noise(value) * max(1.0, inside / max(self.unit, _eps(value)))
        return self._narrowed(value + _finite(magnitude * noise))

    def _narrowed(self, value: Tensor) -> Tensor:
        """The value in the range of the dtype; kernels compute in float32 at least inside."""
        if value.dtype != torch.float64 or self.dtype == torch.float64:
            return value
        return value.to(torch.float32 if self.inside else self.dtype).to(torch.float64)

    def _moved(self, value: Any) -> Any:
        if not _real(value):
            return self._constant(value)
        # Times, not plus a product: infinity stays what it is.
        return value * (1 + self._noise(value))

    def _moved_by_norm(self, value: Any) -> Any:
        if not _real(value) or not value.numel():
            return self._constant(value)
        dims = tuple(range(max(0, value.dim() - 2), value.dim()))
        scale = value.abs().amax(dims, keepdim=True) if dims else value.abs()
        return value + _finite(scale * self._noise(value))

    def _constant(self, value: Any) -> Any:
        """A Python number as the dtype rounds it."""
        if type(value) is not float or not abs(value) <= torch.finfo(self.dtype).max:
            return value
        if torch.tensor(value, dtype=self.dtype).item() == value:
            return value
        noise = torch.empty((), dtype=torch.float64)
        noise.uniform_(-self.unit, self.unit, generator=self.generator)
        return value * (1 + noise.item())


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """What the dispatcher passes, tensors and numbers in lists and tuples, each of them changed.
    Torch's own `tree_map` takes half of the time of a draw."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([_each(change, one) for one in value])
    return change(value)


def _named(change: Callable[[Any], Any], values: dict[str, Any]) -> dict[str, Any]:
    return {name: _each(change, value) for name, value in values.items()}


def _real(value: Any) -> bool:
    """Whether it is a tensor of numbers that are rounded. A zero tensor, which forward mode makes
    for what depends on nothing, has no memory that could be read here."""
    return (
        isinstance(value, Tensor)
        and (value.is_floating_point() or value.is_complex())
        and not value._is_zerotensor()
        # What makes a sparse tensor has rounded its values.
        and value.layout is torch.strided
    )


def _only_moves(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call adds nothing up though the operation may: `index_put` unless it accumulates,
    and norms of infinite order, which choose an entry."""
    if func in PUTS:
        return not (args[3] if len(args) > 3 else kwargs.get("accumulate", False))
    return func in NORMS and any(type(a) is float and abs(a) == torch.inf for a in args)


def _eps(value: Tensor) -> float:
    eps: float = torch.finfo(value.dtype).eps
    return eps


def _terms(func: Any, args: Any, result: Any) -> float:
    """About how many terms a sum of products has in each entry of its result."""
    if not _real(result) or not result.numel():
        return 1.0
    name = _base(func)
    if name in PRODUCTS:
        factor = args[name.startswith(("add", "badd"))]
        batch = factor.shape[0] if name == "addbmm" else 1
        return float(batch * factor.shape[-1])
    if name == "cumsum":
        return float(max(result.shape, default=1))
    most = max((x.numel() for x in args if isinstance(x, Tensor)), default=1)
    return max(1.0, most / int(result.numel()))


def _finite(value: Tensor) -> Tensor:
    return value.nan_to_num(0.0, 0.0, 0.0)


def _magnitude(value: Any) -> Any:
    return value.abs() if _real(value) else value


def _bound(func: Any, args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """The arguments of a call beside those of the schema."""
    for position, argument in enumerate(func._schema.arguments):
        if position < len(args):
            yield argument, args[position]
        elif argument.name in kwargs:
            yield argument, kwargs[argument.name]

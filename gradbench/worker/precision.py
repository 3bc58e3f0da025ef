"""Evaluating a user's function in float64 without changing what it does.

While `Wide` is on, the default dtype is float64 and the tensors that the function owns are float64
copies of themselves, so that an operation never mixes dtypes. What is float32 still, such as a
tensor made of a NumPy array or with ``dtype=torch.float32``, is made float64 by `Forced`, which
costs more. `Measured` is what remains for a function that allows neither.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from gradbench.problems.dispatch import DispatchMode, tensors_in

PLAIN, FORCED, MEASURED = "float64", "forced float64", "measured"
"""How a function is evaluated for the evidence and the references."""

WIDE = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
    torch.complex32: torch.complex128,
}


def widened(x: Any) -> Any:
    """A floating-point or complex tensor in double precision; anything else as it is."""
    return x.to(WIDE[x.dtype]) if isinstance(x, Tensor) and x.dtype in WIDE else x


class Twins:
    """Double precision copies of tensors, which take their places and give them back.

    Tensors that share memory share it in their copies.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = [
            x
            for x in tensors
            if x.dtype in WIDE and x.layout == torch.strided and not x.is_inference()
        ]
        self.copies: list[Tensor] = []
        self.versions: list[int] = []

    def _made(self) -> list[Tensor]:
        memory: dict[tuple[int, torch.dtype], Tensor] = {}
        copies = []
        for x in self.tensors:
            with torch.no_grad():
                key = (x.untyped_storage().data_ptr(), x.dtype)
                if key not in memory:
                    length = x.untyped_storage().nbytes() // x.element_size()
                    flat = torch.as_strided(x.detach(), (length,), (1,), 0)
                    memory[key] = flat.to(WIDE[x.dtype])
                copies.append(
                    torch.as_strided(memory[key], x.shape, x.stride(), x.storage_offset())
                )
        return copies

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        versions = [x._version for x in self.tensors]
        if versions != self.versions:
            self.copies = self._made()
        originals = [x.data for x in self.tensors]
        try:
            for x, copy in zip(self.tensors, self.copies):
                x.data = copy
            yield
        finally:
            written = [x._version for x in self.tensors] != versions
            for x, original in zip(self.tensors, originals):
                x.data = original
            # A copy that was written into is not that of the tensor any more.
            self.versions = [] if written else versions


class Draws(DispatchMode):
    """Random numbers are those of the measured dtype: a seed gives others in float64."""

    factories = ("rand", "randn", "normal")
    names = frozenset(
        (
            *(*factories, "rand_like", "randn_like", "normal_", "uniform_", "bernoulli_"),
            *("bernoulli", "exponential_", "cauchy_", "log_normal_", "geometric_", "random_"),
            *("multinomial", "poisson", "binomial", "_standard_gamma", "_sample_dirichlet"),
        )
    )

    def __init__(self, measured: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.measured = measured

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name not in self.names:
            return func(*args, **kwargs)

        def narrow(x: Any) -> Any:
            if isinstance(x, Tensor):
                return x.to(self.measured) if x.dtype == torch.float64 else x
            return self.measured if x is torch.float64 else x

        if name in self.factories and not any(isinstance(x, Tensor) for x in args):
            kwargs = {**kwargs, "dtype": kwargs.get("dtype") or torch.get_default_dtype()}
        result = func(*tree_map(narrow, args), **tree_map(narrow, kwargs))
        if name.endswith("_"):
            return args[0].copy_(result)
        return tree_map(widened, result)


class Forced(TorchFunctionMode):
    """Dtypes that the function asks for, and results of narrower ones, become double precision."""

    casts = {  # noqa: RUF012
        getattr(Tensor, narrow): getattr(Tensor, wide)
        for narrow, wide in (
            *(("float", "double"), ("half", "double"), ("bfloat16", "double")),
            *(("cfloat", "cdouble"), ("chalf", "cdouble")),
        )
        if hasattr(Tensor, narrow)
    }
    as_they_are = (torch.autograd.grad, torch.autograd.backward, Tensor.backward)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.as_they_are:
            return func(*args, **kwargs)
        func = self.casts.get(func, func)
        name = getattr(func, "__name__", "")
        in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))

        def wide(x: Any) -> Any:
            if isinstance(x, torch.dtype):
                return WIDE.get(x, x)
            return x if in_place else widened(x)

        result = func(*tree_map(wide, args), **tree_map(wide, kwargs))
        if in_place or name in ("__get__", "requires_grad_", "detach_"):
            return result
        return tree_map(widened, result) if isinstance(result, (Tensor, tuple, list)) else result


class Narrow(DispatchMode):
    """Notices results of less than double precision, and random numbers that are drawn."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: set[torch.dtype] = set()
        self.drawn = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.drawn |= func.overloadpacket.__name__ in Draws.names
        self.dtypes |= {x.dtype for x in tensors_in(result)} & WIDE.keys()
        return result


class Wide:
    """Evaluation in float64, as a context that can be entered again inside.

    `manner` is one of the constants above, `draws` the measured dtype for functions that draw
    random numbers.
    """

    def __init__(
        self, tensors: Sequence[Tensor], manner: str = PLAIN, draws: torch.dtype | None = None
    ) -> None:
        self.twins = Twins(tensors)
        self.manner = manner
        self.draws = draws
        self.depth = 0

    @property
    def is_on(self) -> bool:
        return self.depth > 0

    @property
    def sets_dtype(self) -> bool:
        """Whether the default dtype is float64 for it now."""
        return self.depth > 0 and self.manner != MEASURED

    def __enter__(self) -> None:
        self.depth += 1
        if self.depth > 1:
            return
        self.stack = contextlib.ExitStack()
        if self.manner == MEASURED:
            return
        before = torch.get_default_dtype()
        with contextlib.ExitStack() as stack:
            torch.set_default_dtype(torch.float64)
            stack.callback(torch.set_default_dtype, before)
            stack.enter_context(self.twins.swapped())
            if self.draws is not None:
                stack.enter_context(Draws(self.draws))
            if self.manner == FORCED:
                stack.enter_context(Forced())
            self.stack = stack.pop_all()

    def __exit__(self, *raised: object) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.stack.close()


def agree(measured: Tensor, exact: Tensor, unit: float) -> bool:
    """Whether a value in the measured dtype is that in float64 up to rounding.

    `unit` is that of the coarsest dtype inside. Half of the digits are left to what the function
    amplifies; entries that are not finite in both count as equal.
    """
    if measured.shape != exact.shape:
        return False
    a, b = measured.double(), exact.double()
    finite = a.isfinite() & b.isfinite()
    if not finite.any():
        return True
    scale = float(b[finite].abs().max())
    info = torch.finfo(measured.dtype)
    # What is below the range of the measured dtype is zero in it.
    underflow = 32 * info.tiny * info.eps
    return bool((a - b)[finite].abs().max() <= unit**0.5 * scale + underflow)


def quietly(call: Callable[..., Any], *arguments: Any) -> Any:
    """The call's result, without warnings: it is made more often than a user would."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments)

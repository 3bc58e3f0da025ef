"""Names of C++ functions for readers, and the part of torch that a function belongs to.

A symbol of torch can have thousands of characters, nearly all of them template arguments.
docs/explain.md documents the groups.
"""

from __future__ import annotations

import functools
import re

LONGEST = 200
"""Characters of a name that are kept."""

_ANONYMOUS = re.compile(r"\(anonymous(?: namespace| class)?\)::|\(anonymous namespace\)")
_OPERATOR = re.compile(r"operator(\(\)|\[\]|<<=|>>=|<=>|<<|>>|<=|>=|->\*|->|<|>)")
_OPERATORS = {"()": "call", "[]": "at"}
_CLONE = re.compile(
    r"\s*\[(?:clone|abi)[^\]]*\]|\.(?:constprop|isra|part|cold|lto_priv)\.?\d*|'\d+$"
)
_POINTER = re.compile(r"&\(?((?:\w+::)+~?\w+)")


@functools.lru_cache(maxsize=1 << 16)
def readable(symbol: str) -> str:
    """A symbol without return type, parameters and template arguments.

    What wraps another function names it: ``c10::function_ref::callback_fn<at::native::AVX2::
    sinh_kernel>`` is the loop of that kernel.
    """
    plain = _plain(symbol)
    outline, inner = _outline(plain)
    name = _last_word(outline)
    target = _target(inner)
    if target and target != name and not name.endswith(target):
        name = f"{name}<{target}>"
    return (name or symbol)[:LONGEST]


def _plain(symbol: str) -> str:
    """The symbol without what has brackets in it that are none."""
    text = _ANONYMOUS.sub("", _CLONE.sub("", symbol).strip())
    text = _OPERATOR.sub(lambda m: "operator_" + _OPERATORS.get(m[1], "sign"), text)
    while "{lambda" in text:
        shorter = _innermost_lambda(text)
        if shorter == text:
            break
        text = shorter
    return text.replace("decltype(auto)", "auto")


def _innermost_lambda(text: str) -> str:
    start = text.rfind("{lambda")
    end = text.find("}", start)
    return text[:start] + "LAMBDA" + text[end + 1 :] if end >= 0 else text[:start] + "LAMBDA"


def _outline(text: str) -> tuple[str, list[str]]:
    """The text outside of all brackets, and the content of each outermost pair of `<>`."""
    outside: list[str] = []
    inner: list[str] = []
    depth, start, opened = 0, 0, ""
    for place, sign in enumerate(text):
        if sign in "<(":
            if not depth:
                start, opened = place + 1, sign
            depth += 1
        elif sign in ">)":
            if depth == 1 and opened == "<":
                inner.append(text[start:place])
            depth = max(0, depth - 1)
        elif not depth:
            outside.append(sign)
    if depth and opened == "<":
        inner.append(text[start:])
    return "".join(outside), inner


def _last_word(outline: str) -> str:
    """The function's name of a declaration without brackets: what follows the return type."""
    outline = outline.replace(" const::", "::")
    words = [w for w in outline.split() if w not in ("const", "&", "&&", "noexcept", "volatile")]
    if len(words) > 1 and "operator" in words[-2].rpartition("::")[2]:
        words[-2:] = [" ".join(words[-2:])]
    name = words[-1].strip("*&") if words else ""
    return re.sub(r"(::LAMBDA(::operator_call)?)+", "", name).replace("operator_call", "operator()")


def _target(inner: list[str]) -> str:
    """The function that template arguments name: one whose address they hold, or in which a lambda
    is written."""
    for text in inner:
        if found := _POINTER.search(text):
            return found[1]
    for text in inner:
        at = text.find("::LAMBDA")
        if at >= 0:
            before = _before_lambda(text[:at])
            if before:
                return before
    return ""


def _before_lambda(text: str) -> str:
    """The name of the function that a text ends with, its parameters removed."""
    depth = 0
    for place in range(len(text) - 1, -1, -1):
        sign = text[place]
        if sign in ")>":
            depth += 1
        elif sign in "(<":
            if not depth:
                return _last_word(_outline(text[place + 1 :])[0])
            depth -= 1
        elif sign == "," and not depth:
            return _last_word(_outline(text[place + 1 :])[0])
    return _last_word(_outline(text)[0])


WRAPPERS = {
    "c10::function_ref::callback_fn": "loop",
    "c10::impl::wrap_kernel_functor_unboxed_::call": "wrapper",
}
"""What wraps another function, in a word."""


def short(name: str) -> str:
    """A function's name without the namespaces that most have, and without a wrapper's own name:
    ``AVX2::sinh_kernel loop``."""
    outer, _, target = name.partition("<")
    if target and outer in WRAPPERS:
        name = f"{target.rstrip('>')} {WRAPPERS[outer]}"
    name = re.sub(r"@+[A-Z]+_[\d.]+$", "", name)
    return re.sub(r"\b(at::native|c10::impl|torch::autograd|at|c10|torch|std)::(?=\w)", "", name)


# ── groups ────────────────────────────────────────────────────────────────────────────────────

PYTHON = "Python"
BINDINGS = "bindings"
DISPATCHER = "dispatcher"
AUTOGRAD = "autograd"
OPERATORS = "operators"
KERNELS = "kernels"
MEMORY = "memory"
OTHER = "other"

GROUPS = {
    PYTHON: "the interpreter and its modules",
    BINDINGS: "arguments and results between Python and C++ (libtorch_python)",
    DISPATCHER: "choosing an operation's code, tensors' metadata, thread-local state (c10, at)",
    AUTOGRAD: "recording and running the graph (torch::autograd), torch.func's transforms",
    OPERATORS: "checks, shapes, preparing loops (at::native, TensorIterator)",
    KERNELS: "loops over elements: at::native's vectorised code, MKL, oneDNN, SLEEF, libm",
    MEMORY: "allocating, freeing, copying and clearing memory",
    OTHER: "what could not be attributed",
}
"""Each group of functions and what is in it."""

WORK = (KERNELS,)
"""The groups whose instructions are the arithmetic that was asked for; the others are overhead."""

_ALLOCATORS = re.compile(
    r"(_int_)?(malloc|free|calloc|realloc|memalign)\w*\Z|posix_memalign|aligned_alloc|"
    r"unlink_chunk|sysmalloc|systrim|tcache_\w+|operator (new|delete)|"
    r"_*mem(cpy|set|move|cmp)(_\w+)?\Z|(__)?(mmap|munmap|brk|sbrk|madvise)\Z|"
    r"c10::(alloc_cpu|free_cpu|GetCPUAllocator|DefaultCPUAllocator|ProfiledCPUMemoryReporter)"
)
_LOOPS = re.compile(
    r"at::native::(AVX\w*|DEFAULT|ZVECTOR|SVE\w*|VSX)::|at::vec::|at::native::cpublas::|"
    r"at::internal::\w*parallel|mkl_|dnnl|mkldnn|Sleef_|fbgemm|xnn_|cblas_"
)
_KERNEL_LIBRARIES = re.compile(r"libm[.-]|libmvec|libmkl|libgomp|libiomp|libopenblas|libsleef")
_LOOP_WRAPPERS = ("c10::function_ref", "std::_Function_handler", "std::function")
_AUTOGRAD = re.compile(r"torch::(autograd|ADInplaceOrView|jit)|(at|torch)::functorch")
_OPERATOR_CODE = re.compile(
    r"at::(native|meta|sparse|TensorIterator|TensorMaker|infer|namedinference|expand|structured_|"
    r"detail::empty|indexing)"
)


def group(library: str, name: str) -> str:
    """The group of a function with a readable name: the first of the rules that fits it.

    A wrapper (a loop that calls a kernel's lambda) belongs where the function that it names does.
    `OTHER` is what belongs to whoever calls it: the C library, `std::` and the like.
    """
    if re.match(r"(lib)?python|.*\.cpython-\w+", library):
        return PYTHON
    if _ALLOCATORS.match(name):
        return MEMORY
    if _KERNEL_LIBRARIES.match(library):
        return KERNELS
    if "torch_python" in library:
        return AUTOGRAD if "PythonEngine" in name or "functorch" in name else BINDINGS
    if not re.match(r"lib(torch|c10)", library):
        return KERNELS if _LOOPS.match(name) else OTHER
    return _in_torch(name)


def _in_torch(name: str) -> str:
    """The group of a function of torch's own C++ libraries."""
    outer, _, target = name.partition("<")
    if target and outer.startswith(_LOOP_WRAPPERS):
        return KERNELS if target.startswith("at::native") else _in_torch(target.rstrip(">"))
    for pattern, found in ((_LOOPS, KERNELS), (_AUTOGRAD, AUTOGRAD), (_OPERATOR_CODE, OPERATORS)):
        if pattern.match(outer):
            return found
    return DISPATCHER if outer.startswith(("at::", "c10::", "torch::")) else OTHER

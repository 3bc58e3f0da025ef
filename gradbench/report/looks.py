"""One colour and one mark for each mode, in all figures and on the page.

The colour says how a mode goes through the function; the modes of one colour differ by their mark.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

WAYS = (
    "reverse mode, one pass for each row",
    "reverse mode, all rows in one pass",
    "forward mode, one pass for each column",
    "forward mode, all columns in one pass",
    "reverse mode by torch.func",
    "others",
)
"""What the colours stand for."""

COLOURS = (
    ("#0072b2", "#4aa3df"),
    ("#d55e00", "#f0803c"),
    ("#009e73", "#2cc295"),
    ("#c0609a", "#e59ac6"),
    ("#b57a00", "#f0b429"),
    ("#2f97cf", "#8fd0f5"),
)
"""On light and on dark paper: Okabe and Ito's, the lighter ones darkened to a contrast of 3 : 1."""

MARKS: tuple[tuple[Any, str], ...] = (
    ("o", "M6 1a5 5 0 1 0 .01 0z"),
    ("s", "M1.5 1.5h9v9h-9z"),
    ("D", "M6 0l6 6-6 6-6-6z"),
    ("^", "M6 1l5.5 9.5h-11z"),
    ("v", "M6 11L.5 1.5h11z"),
    ("P", "M4 0h4v4h4v4H8v4H4V8H0V4h4z"),
    ("X", "M0 2l2-2 4 4 4-4 2 2-4 4 4 4-2 2-4-4-4 4-2-2 4-4z"),
    ("<", "M1 6L10.5.5v11z"),
    (">", "M11 6L1.5.5v11z"),
    ("*", "M6 0l1.8 4.2 4.2.3-3.2 2.9 1 4.6L6 9.5 2.2 12l1-4.6L0 4.5l4.2-.3z"),
    ("h", "M6 0l5.2 3v6L6 12 .8 9V3z"),
    ("p", "M6 .5l5.7 4.2-2.2 6.8h-7L.3 4.7z"),
    ("d", "M6 0l3.6 6L6 12 2.4 6z"),
    ("H", "M3 .8h6L12 6l-3 5.2H3L0 6z"),
    ((4, 1, 0), "M6 0l1.6 4.4L12 6 7.6 7.6 6 12 4.4 7.6 0 6l4.4-1.6z"),
    ((6, 1, 0), "M6 0l1.5 3.4 3.7-.4L9 6l2.2 3-3.7-.4L6 12 4.5 8.6.8 9 3 6 .8 3l3.7.4z"),
    ((3, 1, 0), "M6 0l1.6 5.1 4 4.4L6 8 .4 9.5l4-4.4z"),
    ("8", "M3.5 0h5L12 3.5v5L8.5 12h-5L0 8.5v-5z"),
    ((4, 1, 45), "M1.5 1.5L6 3.8l4.5-2.3L8.2 6l2.3 4.5L6 8.2l-4.5 2.3L3.8 6z"),
)
"""matplotlib's mark, and its path in a square of 12 for the page. Their number and that of the
colours have no common divisor, so that no two of some hundred modes look alike."""

_MODES = (
    (
        "loop_grad grad grad_twice accumulated_grad grad_step",
        "loop_backward backward accumulated_backward backward_step double_backward functional_vhp",
        "functional_jacobian functional_hessian functional_of_sum functional_hvp",
    ),
    (
        "grads_batched grad_twice_batched",
        "functional_jacobian_vectorized functional_hessian_vectorized summed_backward",
        "naive_full summed_grad dense_diagonal",
    ),
    (
        "forward_loop dual dual_over_grad ones_dual",
        "loop_jvp func_jvp ones_jvp",
        "functional_jvp",
    ),
    (
        "jacfwd func_hessian vmap_jacfwd vmap_hessian forward_over_reverse",
        "functional_forward functional_hessian_forward linearize",
        "jacfwd_jacfwd vmap_jacfwd_jacfwd",
    ),
    (
        "jacrev jacrev_jacrev vmap_jacrev_jacrev vmap_func_vjp reverse_over_forward",
        "jacrev_chunked func_vjp jacrev_of_sum jacrev_jacfwd summed_func_vjp reverse_over_reverse "
        "vmap_grad",
        "func_grad vmap_jacrev vmap_jacrev_jacfwd functional_call_step",
    ),
    (
        "ones_grad functional_vjp",
        "ones_backward naive_loop manual_materialised",
        "manual",
        "numpy_explicit",
    ),
)
"""By way, the modes of each number: no two of one number are modes of the same operator."""

KNOWN = {
    mode: way + len(WAYS) * place
    for way, places in enumerate(_MODES)
    for place, modes in enumerate(places)
    for mode in modes.split()
}


def stylesheet() -> str:
    """The colours as the variables of the page's style sheet, on light and on dark paper."""

    def variables(paper: int) -> str:
        named = (f"--series-{n}: {colour[paper]}" for n, colour in enumerate(COLOURS))
        return f":root {{ {'; '.join(named)} }}"

    return f"{variables(0)}\n@media screen and (prefers-color-scheme: dark) {{ {variables(1)} }}\n"


def numbers(modes: Iterable[str]) -> dict[str, int]:
    """The number of each mode, which gives it its colour and its mark: fixed for the modes that are
    known here, while others take the smallest ones that are left."""
    modes = list(dict.fromkeys(modes))
    found = {mode: KNOWN[mode] for mode in modes if mode in KNOWN}
    for mode in modes:
        taken = set(found.values())
        found.setdefault(mode, next(n for n in range(len(taken) + 1) if n not in taken))
    return {mode: found[mode] for mode in modes}

"""One colour and one mark for each mode, in all figures and on the page.

The colour says how a mode goes through the function; the modes of one colour differ by their mark.
"""

from __future__ import annotations

from collections.abc import Iterable

WAYS = (
    "reverse mode, one pass for each row",
    "reverse mode, all rows in one pass",
    "forward mode, one pass for each column",
    "forward mode, all columns in one pass",
    "reverse mode by torch.func",
    "others",
)
"""What the colours of `style.SERIES` stand for."""

_MODES = (
    (
        ("loop_grad", "grad", "grad_twice", "accumulated_grad", "grad_step"),
        ("loop_backward", "backward", "accumulated_backward", "backward_step"),
        ("functional_jacobian", "functional_hessian", "functional_of_sum"),
    ),
    (
        ("grads_batched", "grad_twice_batched"),
        ("functional_jacobian_vectorized", "functional_hessian_vectorized", "summed_backward"),
        ("naive_full", "summed_grad"),
    ),
    (("forward_loop", "dual"), ("loop_jvp", "func_jvp"), ("functional_jvp",)),
    (
        ("jacfwd", "func_hessian", "vmap_jacfwd", "vmap_hessian"),
        ("functional_forward", "functional_hessian_forward"),
        ("jacfwd_jacfwd",),
    ),
    (
        ("jacrev", "vmap_jacrev", "jacrev_jacrev"),
        ("jacrev_chunked", "func_vjp", "jacrev_of_sum", "jacrev_jacfwd"),
        ("func_grad",),
    ),
    (("ones_grad", "functional_vjp"), ("ones_backward", "naive_loop"), ("manual",)),
)
"""By way, the modes of each number: no two of one number are modes of the same operator."""

KNOWN = {
    mode: way + len(WAYS) * place
    for way, places in enumerate(_MODES)
    for place, modes in enumerate(places)
    for mode in modes
}


def numbers(modes: Iterable[str]) -> dict[str, int]:
    """The number of each mode, for `style.look`: fixed for the modes that are known here, while
    others take the smallest ones that are left."""
    modes = list(dict.fromkeys(modes))
    found = {mode: KNOWN[mode] for mode in modes if mode in KNOWN}
    for mode in modes:
        taken = set(found.values())
        found.setdefault(mode, next(n for n in range(len(taken) + 1) if n not in taken))
    return {mode: found[mode] for mode in modes}

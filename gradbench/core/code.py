"""Code to paste: each way of differentiating written out for one function of the user's.

The text needs torch alone. It computes what the mode of the same name computes, and takes tensors
that need not require grad: what the timed mode finds prepared, it prepares itself.
"""

from __future__ import annotations

import ast
import keyword
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

LIVE = "your_function"
"""What the user's function is called in the code where it was passed as an object."""

_LEAVES = "leaves = tuple(a.detach().requires_grad_() for a in $W)\n"
_VALUE = _LEAVES + "y = f(*leaves$C)\n"
_GRADS = "tuple(torch.zeros_like(a) if a.grad is None else a.grad for a in leaves)"
_ONE_HOT = "torch.eye(y.numel(), dtype=y.dtype, device=y.device).reshape(-1, *y.shape)"
_PER_SAMPLE = """n = y[0].numel()
seeds = torch.eye(n, dtype=y.dtype, device=y.device).reshape(n, 1, *y.shape[1:])
seeds = seeds.expand(n, *y.shape)  # one per number of a sample, the same for all samples
"""
_ROWS = "torch.autograd.grad(y, leaves, v, retain_graph=True, materialize_grads=True)"
_RETURN = "return tuple(blocks)$ONE\n"
_DUAL = "import torch.autograd.forward_ad as fwad\n\n"


def _stacked(rows: str, seeds: str, dim: int, shape: str) -> str:
    return (
        f"rows = [{rows} for v in {seeds}]\n"
        f"blocks = [torch.stack(c, {dim}).reshape({shape}) for c, a in zip(zip(*rows), leaves)]\n"
        + _RETURN
    )


def _pulled_loop(seeds: str, dim: int, shape: str) -> str:
    return (
        f"rows = []\nfor v in {seeds}:\n    y.backward(v, retain_graph=True)\n"
        f"    rows.append({_GRADS})\n    for a in leaves:\n        a.grad = None\n"
        f"blocks = [torch.stack(c, {dim}).reshape({shape}) for c, a in zip(zip(*rows), leaves)]\n"
        + _RETURN
    )


def _batched(seeds: str, moved: str, shape: str) -> str:
    return (
        "pulled = torch.autograd.grad(\n"
        f"    y, leaves, {seeds}, is_grads_batched=True, allow_unused=True\n)\n"
        "blocks = [\n"
        f"    y.new_zeros({shape}) if g is None else g{moved}.reshape({shape})\n"
        "    for g, a in zip(pulled, leaves)\n]\n" + _RETURN
    )


_DENSE = "y.shape + a.shape"
_SAMPLE = "y.shape + a.shape[1:]"
_TANGENTS = "torch.eye(a.numel(), dtype=a.dtype, device=a.device).reshape(-1, *a.shape)"
_COLUMNS = "blocks.append(torch.stack(columns, -1).reshape(columns[0].shape + a.shape))\n"

_JACOBIANS = {
    "functional_jacobian": "blocks = torch.autograd.functional.jacobian($G, $W)\n" + _RETURN,
    "functional_jacobian_vectorized": "blocks = torch.autograd.functional.jacobian($G, $W, "
    "vectorize=True)\n" + _RETURN,
    "functional_forward": "blocks = torch.autograd.functional.jacobian(\n    $G, $W, "
    'strategy="forward-mode", vectorize=True\n)\n' + _RETURN,
    "jacrev": "return torch.func.jacrev(f, argnums=$NUMS)($ALL)\n",
    "jacfwd": "return torch.func.jacfwd(f, argnums=$NUMS)($ALL)\n",
    "forward_loop": "blocks = []\nwith fwad.dual_level():\n    for i, a in enumerate($W):\n"
    "        columns = []\n"
    f"        for t in {_TANGENTS}:\n"
    "            wrt = [$X]\n            wrt[i] = fwad.make_dual(a, t)\n"
    "            value, column = fwad.unpack_dual(f(*wrt$C))\n"
    "            columns.append(torch.zeros_like(value) if column is None else column)\n"
    f"        {_COLUMNS}" + _RETURN,
    "loop_jvp": "blocks = []\nfor i, a in enumerate($W):\n    before, after = $W[:i], $W[i + 1 :]\n"
    "    def of_one(a):\n        return f(*before, a, *after$C)\n\n"
    f"    columns = [torch.func.jvp(of_one, (a,), (t,))[1] for t in {_TANGENTS}]\n"
    f"    {_COLUMNS}" + _RETURN,
}

_PULLBACKS = {
    "backward": _LEAVES + f"f(*leaves$C).backward($V)\nblocks = {_GRADS}\n" + _RETURN,
    "grad": _LEAVES
    + "blocks = torch.autograd.grad(f(*leaves$C), leaves$AND_V, materialize_grads=True)\n"
    + _RETURN,
    "functional_vjp": "_, blocks = torch.autograd.functional.vjp($G, $W$AND_V)\n" + _RETURN,
    "func_vjp": "y, pullback = torch.func.vjp($G, $X)\nblocks = pullback($ONES)\n" + _RETURN,
}

_PLACE = "    block = y.new_zeros(y.numel(), a.numel())\n    block[p['rows'], p['columns']] = "
_FROM_ROWS = _PLACE + (
    "rows.reshape(len(rows), -1)[\n"
    "        p['row_colours'][p['rows']], p['columns']\n    ]\n"
    "    blocks.append(block.reshape(y.shape + a.shape))\n"
)
_FROM_COLUMNS = (
    "    y = columns[0]\n"
    + _PLACE
    + (
        "columns.reshape(len(columns), -1)[\n"
        "        p['column_colours'][p['columns']], p['rows']\n    ]\n"
        "    blocks.append(block.reshape(y.shape + a.shape))\n"
    )
)
_SEEDS = "    seeds = torch.nn.functional.one_hot(p['row_colours']).T.to(y).reshape(-1, *y.shape)\n"
_PUSHES = (
    "    one_hot = torch.nn.functional.one_hot(p['column_colours'])\n"
    "    tangents = one_hot.T.to(a).reshape(-1, *a.shape)\n"
    "    before, after = $W[:i], $W[i + 1 :]\n"
    "    def push(t):\n"
    "        return torch.func.jvp(lambda a: f(*before, a, *after$C), (a,), (t,))[1]\n\n"
)

_COMPRESSED = {
    "compressed_rows": "y, pullback = torch.func.vjp($G, $X)\nblocks = []\n"
    "for i, (a, p) in enumerate(zip($W, PATTERN)):\n"
    + _SEEDS
    + "    rows = torch.func.vmap(lambda v: pullback(v)[i])(seeds)\n"
    + _FROM_ROWS
    + _RETURN,
    "compressed_rows_loop": _VALUE
    + "blocks = []\nfor a, p in zip(leaves, PATTERN):\n"
    + _SEEDS
    + "    rows = torch.stack([\n"
    "        torch.autograd.grad(y, a, v, retain_graph=True, materialize_grads=True)[0]\n"
    "        for v in seeds\n    ])\n" + _FROM_ROWS + _RETURN,
    "compressed_columns": "blocks = []\nfor i, (a, p) in enumerate(zip($W, PATTERN)):\n"
    + _PUSHES
    + "    columns = torch.func.vmap(push)(tangents)\n"
    + _FROM_COLUMNS
    + _RETURN,
    "compressed_columns_loop": "blocks = []\nfor i, (a, p) in enumerate(zip($W, PATTERN)):\n"
    + _PUSHES
    + "    columns = torch.stack([push(t) for t in tangents])\n"
    + _FROM_COLUMNS
    + _RETURN,
}

_GRADIENT = (
    _LEAVES + "grads = torch.autograd.grad(\n"
    "    f(*leaves$C), leaves, create_graph=True, materialize_grads=True\n)\n"
)
_SECOND = "blocks = []\nfor g in grads:\n    if not g.requires_grad:\n" + (
    "        blocks += [g.new_zeros(g.shape + a.shape) for a in leaves]\n        continue\n"
    "    seeds = torch.eye(g.numel(), dtype=g.dtype, device=g.device).reshape(-1, *g.shape)\n"
)
_NESTED = "blocks = {}\n" + (
    "blocks = [b for row in blocks for b in row]\nreturn tuple(blocks)$ONE\n"
)
_FUNC_NESTED = _NESTED.format("torch.func.{}(torch.func.{}(f, $TUPLE_NUMS), $TUPLE_NUMS)($ALL)")
_G = "gradient = torch.func.grad($G, $TUPLE_NUMS)\n"

_HESSIANS = {
    "functional_hessian": _NESTED.format("torch.autograd.functional.hessian($G, $W)"),
    "functional_hessian_vectorized": _NESTED.format(
        "torch.autograd.functional.hessian($G, $W, vectorize=True)"
    ),
    "functional_hessian_forward": _NESTED.format(
        "torch.autograd.functional.hessian(\n    $G, $W, vectorize=True, "
        'outer_jacobian_strategy="forward-mode"\n)'
    ).replace("[b for", "[b.detach() for"),
    "func_hessian": _NESTED.format("torch.func.hessian(f, argnums=$TUPLE_NUMS)($ALL)"),
    "jacrev_jacrev": _FUNC_NESTED.format("jacrev", "jacrev"),
    "jacfwd_jacfwd": _FUNC_NESTED.format("jacfwd", "jacfwd"),
    "jacrev_jacfwd": _FUNC_NESTED.format("jacrev", "jacfwd"),
    "grad_twice": _GRADIENT
    + _SECOND
    + "    rows = [\n        torch.autograd.grad(g, leaves, v, retain_graph=True, "
    "materialize_grads=True)\n        for v in seeds\n    ]\n"
    "    blocks += [\n        torch.stack(c).reshape(g.shape + a.shape) "
    "for c, a in zip(zip(*rows), leaves)\n    ]\n" + _RETURN,
    "grad_twice_batched": _GRADIENT
    + _SECOND
    + "    pulled = torch.autograd.grad(\n        g, leaves, seeds, retain_graph=True, "
    "is_grads_batched=True, allow_unused=True\n    )\n"
    "    blocks += [\n        g.new_zeros(g.shape + a.shape) if b is None "
    "else b.reshape(g.shape + a.shape)\n        for b, a in zip(pulled, leaves)\n    ]\n" + _RETURN,
}

_HESSIAN_PRODUCTS = {
    "functional_hvp": "blocks = torch.autograd.functional.hvp($G, $W, $T)[1]\n" + _RETURN,
    "functional_vhp": "blocks = torch.autograd.functional.vhp($G, $W, $T)[1]\n" + _RETURN,
    "grad_twice": _GRADIENT
    + "pairs = [(g, s) for g, s in zip(grads, $T) if g.requires_grad]\nif not pairs:\n"
    "    return tuple(torch.zeros_like(a) for a in leaves)$ONE\n"
    "grads, seeds = zip(*pairs)\n"
    "blocks = torch.autograd.grad(grads, leaves, seeds, materialize_grads=True)\n" + _RETURN,
    "forward_over_reverse": _G + "blocks = torch.func.jvp(gradient, $W, $T)[1]\n" + _RETURN,
    "reverse_over_reverse": _G + "blocks = torch.func.vjp(gradient, $X)[1]($T)\n" + _RETURN,
    "reverse_over_forward": "def slope($X):\n    return torch.func.jvp($G, $W, $T)[1]\n\n"
    "blocks = torch.func.grad(slope, $TUPLE_NUMS)($X)\n" + _RETURN,
    "dual_over_grad": "with fwad.dual_level():\n"
    "    duals = [fwad.make_dual(a.detach().requires_grad_(), s) for a, s in zip($W, $T)]\n"
    "    grads = torch.autograd.grad(f(*duals$C), duals, materialize_grads=True)\n"
    "    blocks = []\n    for g in grads:\n        value, pushed = fwad.unpack_dual(g)\n"
    "        blocks.append(torch.zeros_like(value) if pushed is None else pushed)\n"
    "return tuple(blocks)$ONE\n",
}

_VMAPPED = (
    "def sample($ALL):\n    return f($UNSQUEEZED).squeeze(0)\n\n"
    "jacobian = torch.func.{}(sample, argnums=$NUMS)\n"
    "return torch.func.vmap(jacobian, in_dims=$DIMS)($ALL)\n"
)
_PER_SAMPLE_MAPPED = (
    "def sample($ALL):\n    return f($UNSQUEEZED_REST).squeeze(0)\n\n"
    "derivative = torch.func.{}(sample, argnums=$NUMS)\n"
    "return torch.func.vmap(derivative, in_dims=$DIMS_REST)($ALL)\n"
)
_OF_SUM = "blocks = [b.movedim($OUTER, 0) for b in blocks]\n" + _RETURN

BODIES: Mapping[str, Mapping[str, str]] = {
    "gradient": _PULLBACKS
    | _JACOBIANS
    | {"func_grad": "return torch.func.grad(f, argnums=$NUMS)($ALL)\n"},
    "vjp": _PULLBACKS,
    "jacobian": _JACOBIANS
    | _COMPRESSED
    | {
        "loop_grad": _VALUE + _stacked(_ROWS, _ONE_HOT, 0, _DENSE),
        "loop_backward": _VALUE + _pulled_loop(_ONE_HOT, 0, _DENSE),
        "grads_batched": _VALUE + f"seeds = {_ONE_HOT}\n" + _batched("seeds", "", _DENSE),
        "per_sample_grad": _PER_SAMPLE_MAPPED.format("grad"),
        "per_sample_jacrev": _PER_SAMPLE_MAPPED.format("jacrev"),
        "jacrev_chunked": "return torch.func.jacrev(f, argnums=$NUMS, chunk_size=$CHUNK)($ALL)\n",
    },
    "batch_jacobian": {
        "ones_grad": _VALUE
        + "blocks = torch.autograd.grad(y, leaves, torch.ones_like(y), materialize_grads=True)\n"
        + f"blocks = [b.reshape({_SAMPLE}) for b, a in zip(blocks, leaves)]\n"
        + _RETURN,
        "loop_grad": _VALUE + _PER_SAMPLE + _stacked(_ROWS, "seeds", 1, _SAMPLE),
        "loop_backward": _VALUE + _PER_SAMPLE + _pulled_loop("seeds", 1, _SAMPLE),
        "grads_batched": _VALUE + _PER_SAMPLE + _batched("seeds", ".movedim(0, 1)", _SAMPLE),
        "vmap_jacrev": _VMAPPED.format("jacrev"),
        "vmap_jacfwd": _VMAPPED.format("jacfwd"),
        "jacrev_of_sum": "def total($ALL):\n    return f($ALL).sum(0)\n\n"
        "blocks = torch.func.jacrev(total, argnums=$TUPLE_NUMS)($ALL)\n" + _OF_SUM,
        "functional_of_sum": "def total($X):\n    return f($ALL).sum(0)\n\n"
        "blocks = torch.autograd.functional.jacobian(total, $W)\n" + _OF_SUM,
        "naive_full": "blocks = torch.autograd.functional.jacobian($G, $W)\n"
        "blocks = [b.diagonal(0, 0, $DIM).movedim(-1, 0) for b in blocks]\n" + _RETURN,
        "naive_loop": "def one($ALL):\n    return torch.autograd.functional.jacobian($G, $W)\n\n"
        "samples = [one($SLICED) for i in range($SAMPLES)]\n"
        "blocks = [torch.cat(b).squeeze($DIM) for b in zip(*samples)]\n" + _RETURN,
    },
    "diagonal": {
        "ones_backward": _VALUE + f"y.backward(torch.ones_like(y))\nblocks = {_GRADS}\n" + _RETURN,
        "ones_grad": _VALUE
        + "blocks = torch.autograd.grad(y, leaves, torch.ones_like(y), materialize_grads=True)\n"
        + _RETURN,
        "ones_dual": "with fwad.dual_level():\n"
        "    duals = [fwad.make_dual(a, torch.ones_like(a)) for a in $W]\n"
        "    return fwad.unpack_dual(f(*duals$C)).tangent\n",
        "ones_jvp": "ones = tuple(torch.ones_like(a) for a in $W)\n"
        "return torch.func.jvp($G, $W, ones)[1]\n",
        "dense_diagonal": "blocks = torch.autograd.functional.jacobian($G, $W)\n"
        "blocks = [b.reshape(a.numel(), -1).diagonal().reshape(a.shape) "
        "for b, a in zip(blocks, $W)]\n" + _RETURN,
        "vmap_grad": "slope = torch.func.grad(f, argnums=0)\n"
        "slopes = torch.func.vmap(slope, in_dims=$MAPPED)($FLAT)\n"
        "return slopes.reshape($FIRST.shape)\n",
    },
    "jvp": {
        "func_jvp": "return torch.func.jvp($G, $W, $T)[1]\n",
        "linearize": "_, push = torch.func.linearize($G, $X)\nreturn push(*$T)\n",
        "dual": "with fwad.dual_level():\n"
        "    duals = [fwad.make_dual(a, s) for a, s in zip($W, $T)]\n"
        "    return fwad.unpack_dual(f(*duals$C)).tangent\n",
        "double_backward": _VALUE + "v = torch.zeros_like(y, requires_grad=True)\n"
        "pulled = torch.autograd.grad(y, leaves, v, create_graph=True, materialize_grads=True)\n"
        "return torch.autograd.grad(pulled, v, $T)[0]\n",
        "functional_jvp": "return torch.autograd.functional.jvp($G, $W, $T)[1]\n",
    },
    "hessian": _HESSIANS,
    "hvp": _HESSIAN_PRODUCTS,
}
"""By operator and mode. The names after the dollar signs are explained in `snippet`."""


def snippet(form: Mapping[str, Any], operator: str, mode: str) -> str:
    """Python code that computes `operator` of the user's function in the way of `mode`.

    `form` is what the probe says of the function (`Subject.form`). The code defines a function
    that is named like the operator. It takes the differentiated inputs first, then the other
    tensors; before them a vjp takes the seed `v`, a jvp and an hvp the tangent `t` (a tuple of them
    for several inputs). It returns one tensor per differentiated input (a hessian one per pair of
    them, row by row), a bare one for one input.
    Raises KeyError for a mode that is not known here.
    """
    body = BODIES[operator][mode]
    n = form["differentiated"]
    names = identifiers(form["names"])
    wrt, rest = names[:n], names[n:]
    shapes, output = form["shapes"], form["output"]
    seeded = operator == "vjp"
    batch = [shape[:1] == output[:1] and bool(shape) for shape in shapes]
    same = [shape == output for shape in shapes]
    alone = "f" if not rest else f"lambda {', '.join(wrt)}: f({', '.join(names)})"
    outputs = 1
    for length in output:
        outputs *= length
    numbers = ", ".join(map(str, range(n)))
    words = {
        # the differentiated inputs as arguments and as a tuple, the others, and all
        "X": ", ".join(wrt),
        "W": _tuple(wrt),
        "C": "".join(f", {name}" for name in rest),
        "ALL": ", ".join(names),
        "FIRST": wrt[0],
        # the function of the differentiated inputs alone
        "G": alone,
        "NUMS": "0" if n == 1 else f"({numbers})",
        "TUPLE_NUMS": "(0,)" if n == 1 else f"({numbers})",
        "ONE": "[0]" if n == 1 else "",
        # the seed, where the operator has one; the tangents
        "V": "v" if seeded else "",
        "AND_V": ", v" if seeded else "",
        "ONES": "v" if seeded else "torch.ones_like(y)",
        "T": "(t,)" if n == 1 else "t",
        # what a mode knows of the shapes
        "CHUNK": str(_root(outputs)),
        "DIM": str(len(output)),
        "OUTER": str(len(output) - 1),
        "SAMPLES": str(output[0]) if output else "1",
        "DIMS": _tuple(["0" if one else "None" for one in batch]),
        "UNSQUEEZED": ", ".join(
            f"{name}.unsqueeze(0)" if one else name for name, one in zip(names, batch)
        ),
        "DIMS_REST": _tuple(["0" if one and i >= n else "None" for i, one in enumerate(batch)]),
        "UNSQUEEZED_REST": ", ".join(
            f"{name}.unsqueeze(0)" if one and i >= n else name
            for i, (name, one) in enumerate(zip(names, batch))
        ),
        "SLICED": ", ".join(
            f"{name}[i : i + 1]" if one else name for name, one in zip(names, batch)
        ),
        "MAPPED": _tuple(["0" if one else "None" for one in same]),
        "FLAT": ", ".join(f"{name}.reshape(-1)" if one else name for name, one in zip(names, same)),
    }
    first = {"vjp": ["v"], "jvp": ["t"], "hvp": ["t"]}.get(operator, [])
    text = Template(body).substitute(words).rstrip("\n")
    parts = ["import torch\n" + (_DUAL.rstrip("\n") + "\n" if "fwad." in body else "")]
    parts.append(_function(form, names))
    if "PATTERN" in body:
        parts.append(_pattern(form))
    indented = "\n".join("    " + line if line else "" for line in text.split("\n"))
    parts.append(f"def {operator}({', '.join(first + names)}):\n{indented}\n")
    return "\n".join(parts)


def _function(form: Mapping[str, Any], names: Sequence[str]) -> str:
    """How the user's function becomes `f`, a map from the tensors to one tensor."""
    place, _, name = form["target"].rpartition(":")
    root = name.partition(".")[0]
    if not place:
        imported, name = f"# {LIVE} is the function that was compared\n", LIVE
    else:
        module = place.removesuffix(".py").replace("\\", "/").rpartition("/")[2]
        imported = f"from {module} import {root}\n"
    called = dict(zip(form["names"], names)) | form["plain"]
    if not (form["parameters"] or form["plain"] or form["tree"]) and form["order"] == form["names"]:
        return f"{imported}\nf = {name}\n"
    given = [f"{o}={called[o]}" if form["by_name"] else called[o] for o in form["order"]]
    inner = f"{name}({', '.join(given)})"
    if form["parameters"]:
        pairs = ", ".join(f'"{p}": {called[p]}' for p in form["parameters"])
        values = [called[o] for o in form["order"]]
        pack = (
            "{" + ", ".join(f'"{o}": {called[o]}' for o in form["order"]) + "}"
            if form["by_name"]
            else _tuple(values)
        )
        arguments = f"(), {pack}" if form["by_name"] else pack
        inner = f"torch.func.functional_call({name}, {{{pairs}}}, {arguments})"
    if form["tree"]:
        imported = f"from torch.utils._pytree import tree_flatten\n{imported}"
        inner = f"tree_flatten({inner})[0]"
        inner = f"torch.cat([y.reshape(-1) for y in {inner} if isinstance(y, torch.Tensor)])"
    return f"{imported}\n\ndef f({', '.join(names)}):\n    return {inner}\n"


def _pattern(form: Mapping[str, Any]) -> str:
    """Where the entries of the jacobian are."""
    said = "# the rows and columns of the entries, and the colour of each row and column\n"
    if not form["pattern"]:
        numbers = 1
        for length in form["output"]:
            numbers *= length
        return (
            f"{said}i = torch.arange({numbers})\n"
            "PATTERN = [dict(rows=i, columns=i, row_colours=0 * i, column_colours=0 * i)]"
            f" * {form['differentiated']}\n"
        )
    return f"{said}PATTERN = torch.load({form['pattern']!r})\n"


TAKEN = frozenset({"f", "v", "t", "y", "a", "p", "i", "n", "torch", "fwad", "PATTERN", LIVE})


def identifiers(names: Sequence[str]) -> list[str]:
    """The names as Python's own: a module's parameter ``0.weight`` is ``p0_weight``."""
    found: list[str] = []
    for name in names:
        word = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
        word = word if word.isidentifier() and not keyword.iskeyword(word) else f"p{word}"
        while word in found or word in TAKEN:
            word += "_"
        found.append(word)
    return found


def literal(value: Any) -> str:
    """The value as code, or three dots where it has none."""
    try:
        ast.literal_eval(repr(value))
    except (ValueError, SyntaxError, MemoryError):
        return "..."
    return repr(value)


def _tuple(words: Sequence[str]) -> str:
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"


def _root(number: int) -> int:
    """The square root, rounded up: the chunk that `jacrev_chunked` takes."""
    root = 1
    while root * root < number:
        root += 1
    return root

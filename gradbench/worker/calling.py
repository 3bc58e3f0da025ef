"""The code that makes a user's function one of flat tensors, as the modes call it."""

from __future__ import annotations

import ast
import keyword
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch

from gradbench.core.arguments import signature
from gradbench.problems.written import FUNCTION, Written, import_line
from gradbench.worker.binding import is_container, items, tracking
from gradbench.worker.loading import importable
from gradbench.worker.settling import ALL, SEED
from gradbench.worker.subject import Subject

PASSED = "original"
"""The name of a function that was passed as an object, where the code wraps it."""

COLUMNS = 100
"""The longest line of a function's head."""

BUNDLE = "modules"
"""The name of the module of which a function's modules are parts in the code."""


class Calling:
    """The code of one subject's function. The imports that it needs go to those of the mode.

    `names` are the names of the flat tensors in the code, `taken` the other names there.
    """

    def __init__(
        self,
        written: Written,
        subject: Subject,
        target: str,
        names: Sequence[str],
        taken: Collection[str],
    ) -> None:
        self.written, self.subject = written, subject
        self.binding = subject.binding
        self.names = dict(zip((leaf.name for leaf in subject.leaves), names))
        self.taken = [*taken, *names]
        self.before: list[str] = []
        """Lines that precede the function."""
        self.variables: dict[str, str] = {}
        """The names of the user's variables in the code."""
        self.inside: list[str] = []
        """Lines in the function, before it returns."""
        self.target = target
        self.imported: dict[tuple[str, str], str] = {}
        self.function = ""

    def code(self) -> list[str]:
        """The definitions; none if the imports are all it takes."""
        subject, binding = self.subject, self.binding
        tree = subject.returned > 0
        inputs = list(binding.made)
        by_position = binding.positional == inputs or all(n in binding.named for n in inputs)
        as_it_is = (
            by_position
            and inputs == [leaf.name for leaf in subject.leaves]
            and not any(leaf.is_complex for leaf in subject.leaves)
            and not (binding.swapped or binding.tracked or tree or subject.manner.random)
            and not _keyword_only(subject)
        )
        self._import(as_it_is)
        if as_it_is:
            rest = self.function != FUNCTION and f"{FUNCTION} = {self.function}\n"
            return [*self.before, *([rest] if rest else [])]
        pairs = {name: self._input(name) for name in inputs}
        value = self._call(
            [pairs[name] for name in binding.positional],
            {name: pairs[name] for name in binding.named},
        )
        if tree:
            self.written.imports.add("from torch.utils._pytree import tree_flatten")
            value = _flattened(value, subject)
        names = [self.names[binding.leaves[number].name] for number in binding.tracked]
        tracked = [f"    {tracking(name)}\n" for name in names]
        lines = [*self._seeds(), *tracked, *self.inside, f"    return {value}\n"]
        parameters = list(self.names.values())
        head = f"def {FUNCTION}({', '.join(parameters)}):\n"
        if len(head) > COLUMNS:
            listed = "".join(f"    {name},\n" for name in parameters)
            head = f"def {FUNCTION}(\n{listed}):\n"
        return [*self.before, head + "".join(lines)]

    def _import(self, as_it_is: bool) -> None:
        """Makes the user's function known to the code, under `self.function`."""
        place, _, name = self.target.rpartition(":")
        if not place:
            self.function = FUNCTION if as_it_is else self._free(PASSED)
            self.before.append(f"# {self.function} is the function that was compared\n")
            return
        self.function = self._imported(place, name, FUNCTION if as_it_is else "")

    def _imported(self, place: str, name: str, wanted: str = "") -> str:
        root, *rest = name.split(".")
        imported = wanted if wanted and not rest else self.imported.get((place, root), "")
        imported = imported or self._free(root)
        self.imported[place, root] = imported
        self.written.imports.add(import_line(root, imported, importable(place)))
        return ".".join([imported, *rest])

    def _free(self, word: str) -> str:
        word = free(word, self.taken)
        self.taken.append(word)
        return word

    def _input(self, name: str) -> str:
        """The code of one argument of the function."""
        subject = self.subject
        inner = {leaf.code: leaf for leaf in subject.leaves if leaf.input == name and leaf.code}
        if name in self.binding.plain and not is_container(subject.inputs[name]):
            return self._plain(name, subject.inputs[name])
        return self._value(subject.inputs[name], name, name, inner)

    def _value(self, value: Any, code: str, name: str, leaves: dict[str, Any]) -> str:
        if code in leaves:
            leaf = self.names[leaves[code].name]
            return f"torch.view_as_complex({leaf})" if leaves[code].is_complex else leaf
        if not is_container(value) or not any(c.startswith(code) for c in leaves):
            text = literal(value)
            return text if text != "..." else self._plain(name, None) + code.removeprefix(name)
        parts = [(n, self._value(v, code + c, name, leaves)) for n, c, v in items(value)]
        if isinstance(value, dict):
            inner = ", ".join(f"{k!r}: {part}" for k, (_, part) in zip(value, parts))
            return f"{{{inner}}}"
        if hasattr(value, "_fields") or not isinstance(value, (list, tuple)):
            kind = type(value)
            made = self._imported(kind.__module__, kind.__qualname__)
            return f"{made}({', '.join(f'{n}={part}' for n, part in parts)})"
        inner = ", ".join(part for _, part in parts)
        return f"[{inner}]" if isinstance(value, list) else _tuple([p for _, p in parts])

    def _plain(self, name: str, value: Any) -> str:
        """An argument that is not a flat tensor: as it is written, or as the user has it."""
        if value is not None and (text := literal(value)) != "...":
            return text
        if value is None and name in self.binding.plain and self.subject.inputs[name] is None:
            return "None"
        if name not in self.variables:
            self.variables[name] = self._free(name)
            self.before.append(self._given(name, self.variables[name]))
        return self.variables[name]

    def _given(self, name: str, variable: str) -> str:
        """The line that says where an input comes from."""
        if name not in self.subject.access:
            return f"# {variable} is the {name} that was compared\n"
        place, _, function = self.subject.maker.rpartition(":")
        made = self._imported(place, function)
        return f"{variable} = {made}(){self.subject.access[name]}\n"

    def _call(self, args: Sequence[str], named: dict[str, str]) -> str:
        binding = self.binding
        if not binding.swapped:
            return f"{self.function}({', '.join([*args, *(f'{n}={v}' for n, v in named.items())])})"
        own = binding.swapped == [""] and self.subject.target is binding.modules[""]
        prefixes = {"": ""} if own else self._bundled()
        places = {place: self.function if own else f"{BUNDLE}.{p}" for place, p in prefixes.items()}
        parts = [
            (f'"{_joined(prefixes[place], name)}"', self.names[binding.leaves[number].name])
            for place, name, number in binding.held
        ]
        weights = self._free("weights")
        each = "".join(f"        {name}: {value},\n" for name, value in parts)
        inside = f"\n{each}    " if each else ""
        self.inside.append(f"    {weights} = {{{inside}}}\n")
        for place in dict.fromkeys(place for place, _ in binding.copied):
            buffers = [name for at, name in binding.copied if at == place]
            key = "name" if own else f'f"{prefixes[place]}.{{name}}"'
            quoted = _tuple([f'"{name}"' for name in buffers])
            copy = f"{weights}[{key}] = {places[place]}.get_buffer(name).clone()"
            self.inside.append(f"    for name in {quoted}:\n        {copy}\n")
        passed = _tuple(args) if args else "()"
        by_name = "{" + ", ".join(f'"{n}": {v}' for n, v in named.items()) + "}" if named else ""
        called = self.function if own else BUNDLE
        inner = ", ".join(filter(None, (called, weights, passed, by_name)))
        return f"torch.func.functional_call({inner})"

    def _bundled(self) -> dict[str, str]:
        """The name of each module as a part of the bundle, which is defined before."""
        places = self.binding.swapped
        parts = dict(zip(places, identifiers([p or "own" for p in places], ["training"])))
        lines = []
        for place, part in parts.items():
            lines.append(f"        self.{part} = {self._module(place)}\n")
        self.before.append(
            "class Modules(torch.nn.Module):\n"
            f'    """{self.function}, with its modules as parts."""\n\n'
            "    def __init__(self):\n        super().__init__()\n"
            + "".join(lines)
            + "\n    def forward(self, *args, **named):\n"
            f"        return {self.function}(*args, **named)\n\n\n{BUNDLE} = Modules()\n"
        )
        return parts

    def usage(self) -> list[str]:
        """What to pass for the flat tensors, as code; empty where they are the function's inputs.

        To be called after `code`.
        """
        subject, binding = self.subject, self.binding
        numbers = {leaf.name: number for number, leaf in enumerate(binding.leaves)}
        held = {number: (place, name) for place, name, number in binding.held}
        words: list[str] = []
        whole: dict[str, list[str]] = {}
        for leaf in subject.leaves:
            if leaf.code:
                real = f"torch.view_as_real({leaf.code})" if leaf.is_complex else leaf.code
                words.append(real)
                continue
            place, name = held[numbers[leaf.name]]
            whole.setdefault(place, []).append(name)
            words.append(f'{self._module(place)}.get_parameter("{name}")')
        for place, names in whole.items():
            module = self._module(place)
            at = words.index(f'{module}.get_parameter("{names[0]}")')
            held_there = dict(binding.modules[place].named_parameters())
            trained = [name for name, p in held_there.items() if p.requires_grad]
            inside = [f'{module}.get_parameter("{name}")' for name in names]
            if names == trained and words[at : at + len(names)] == inside:
                every = f"{module}.parameters()"
                trainable = f"*(p for p in {every} if p.requires_grad)"
                words[at : at + len(names)] = [
                    f"*{every}" if len(names) == len(held_there) else trainable
                ]
        return [] if words == [leaf.input for leaf in subject.leaves] else words

    def _module(self, place: str) -> str:
        """The code of a module that is an input, or in one, or that the function is a method of."""
        if not place:
            if isinstance(self.subject.target, torch.nn.Module):
                return self.function
            owner, _, _ = self.function.rpartition(".")
            return owner or f"{self.function}.__self__"
        name, *inside = place.split(".")
        if name not in self.subject.inputs:
            return self._outside(name)
        value, code = self.subject.inputs[name], self._plain(name, None)
        for wanted in inside:
            _, access, value = next(item for item in items(value) if item[0] == wanted)
            code += access
        return code

    def _outside(self, name: str) -> str:
        """The code of a variable that the function reads from outside of it."""
        known, _, _ = self.target.rpartition(":")
        if known and hasattr(sys.modules.get(self.subject.target.__module__), name):
            return self._imported(known, name)
        if name not in self.variables:
            self.variables[name] = self._free(name)
            line = f"# {self.variables[name]} is the {name} that the function reads\n"
            self.before.append(line)
        return self.variables[name]

    def _seeds(self) -> list[str]:
        drawn = self.subject.manner.random
        if not drawn:
            return []
        lines = [f"    torch.manual_seed({SEED})  # the same numbers in every call\n"]
        if drawn == ALL:
            self.written.imports |= {"import random", "import numpy"}
            lines += [f"    random.seed({SEED})\n", f"    numpy.random.seed({SEED})\n"]
        return lines


def _keyword_only(subject: Subject) -> bool:
    known = signature(subject.target)
    return known is not None and any(name in known.keyword_only for name in subject.inputs)


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _flattened(value: str, subject: Subject) -> str:
    """The code of the value as one tensor: see `subject.flattened`."""
    kept = "isinstance(y, torch.Tensor) and y.is_floating_point()"
    leaves = f"[y for y in tree_flatten({value})[0] if {kept}]"
    if subject.returned == 1:
        return f"{leaves}[0]"
    return f"torch.cat([y.reshape(-1) for y in {leaves}])"


def identifiers(names: Iterable[str], taken: Collection[str]) -> list[str]:
    """The names as Python's own: a module's parameter ``0.weight`` is ``p0_weight``."""
    words: list[str] = []
    for name in names:
        word = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
        word = word if word.isidentifier() and not keyword.iskeyword(word) else f"p{word}"
        words.append(free(word, [*words, *taken]))
    return words


def free(word: str, taken: Collection[str]) -> str:
    while word in taken:
        word += "_"
    return word


def literal(value: Any) -> str:
    """The value as code, or three dots where it has none."""
    try:
        ast.literal_eval(repr(value))
    except (ValueError, SyntaxError, MemoryError):
        return "..."
    return repr(value)


def _tuple(words: Sequence[str]) -> str:
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"

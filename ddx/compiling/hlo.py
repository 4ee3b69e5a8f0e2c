"""A compiled program, operation by operation: what the compiler thinks it costs, and what part of a model it is of."""

import math
import re
from typing import NamedTuple

# Where an operation comes from, by its path of modules; the first that matches counts.
KINDS = {
    "collective": r"",  # by its opcode
    "optimizer": r"(^|/)optimizer/",
    "attention": r"(_|/)attn",
    "norm": r"norm",
    "convolution": r"conv_general_dilated|/(conv|conv\d|conv_in|conv_out)/|nin_shortcut",
    "mlp": r"/mlp/",
    "network": r"UNet|DiT",
    "step": r"",  # all else: noise, times, the update of x_t
}
SEND = "send"  # from a slice to another
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all", SEND)
_INPUTS_TOO = ("all-gather", "collective-permute")  # the results of their first halves have the inputs before them
_BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_LINE = re.compile(r"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<type>\(.*?\)|\S+) (?P<opcode>[\w-]+)\(")
_PATH = re.compile(r'op_name="([^"]*)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CHAIN = re.compile(r'\bchain_id="(\d+)"')  # an asynchronous collective is written in each of the fusions beside it

_COMPUTATION = re.compile(r"^(ENTRY )?%?(?P<name>[\w.-]+) \(.*\{\s*$")
_BODY = re.compile(r"\bbody=%?([\w.-]+)")
_FUSED = re.compile(r"\bcalls=%?([\w.-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.-]+))")


class Operation(NamedTuple):
    """An operation with a cost of its own."""

    name: str
    opcode: str
    path: str  # of the modules that it is from
    kind: str  # of KINDS
    cycles: float  # estimated; 0 for collectives, of which the compiler says nothing
    num_bytes: int  # of the result of a collective
    loops: int  # around it, one in another


def operations(text: str) -> list[Operation]:
    """The operations of a compiled program's text whose cost is known, and its collectives."""
    found, within, loops, chains = [], "", _loops(text), set()
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            within = head["name"]
        cycles = _CYCLES.search(line)
        is_collective = any(f" {name}(" in line or f" {name}-start(" in line for name in _COLLECTIVES)
        if not (cycles or is_collective) or not (match := _LINE.match(line)):
            continue
        path = _PATH.search(line)
        name, opcode = match["name"], match["opcode"].removesuffix("-start")
        of = _short(path[1]) if path else ""
        kind = "collective" if opcode in _COLLECTIVES else _kind(of)
        if kind == "collective" and (chain := _CHAIN.search(line)):
            if (opcode, chain[1]) in chains:
                continue
            chains.add((opcode, chain[1]))
        halves = 2 if match["opcode"] != opcode and opcode in _INPUTS_TOO else 1
        size = _num_bytes(match["type"], halves) if kind == "collective" else 0
        found.append(Operation(name, opcode, of, kind, int(cycles[1]) if cycles else 0, size, loops.get(within, 0)))
    return found


def _loops(text: str) -> dict[str, int]:
    """How many loops are around each computation that is a loop's body, or a branch or a fusion of one."""
    around: dict[str, tuple[str, int]] = {}  # the computation that it is in, and whether it is a loop's body
    within = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            within = head["name"]
        for body in _BODY.findall(line):
            around[body] = within, 1
        for fused in _FUSED.findall(line):
            around[fused] = within, 0
        for several, one in _BRANCHES.findall(line):
            around |= {name.strip().lstrip("%"): (within, 0) for name in (several or one).split(",")}

    def count(name: str) -> int:
        outer, loop = around[name]
        return loop + (count(outer) if outer in around else 0)

    return {name: count(name) for name in around}


def has_float64(text: str) -> bool:
    """Whether a program computes in float64, which a TPU does in software."""
    return bool(re.search(r"\bf64\[", text))


def _kind(path: str) -> str:
    return next(kind for kind, pattern in KINDS.items() if kind != "collective" and re.search(pattern, path))


_OF_ALL = ("shard_map", "while", "body", "closed_call", "jit(_fun)", "jit(of_device)")


def _short(path: str) -> str:
    """The path without what every operation has, and with "backward" where gradients are computed."""
    backward = "transpose(jvp" in path
    parts = [part for part in path.split("/") if part not in _OF_ALL]
    parts = [re.sub(r"^(transpose\()?jvp\((\w+)\)+$", r"\2", part).removesuffix("._network") for part in parts]
    return "/".join(["backward"] * backward + [p for i, p in enumerate(parts) if i == 0 or p != parts[i - 1]])


def _num_bytes(shape: str, halves: int = 1) -> int:
    """The bytes of the arrays of a type; of the second half of them alone, with 2 halves. Scalars are not data."""
    arrays = re.findall(r"\b([a-z]+\d+|pred)\[([\d,]+)\]", shape)
    of_result = arrays[len(arrays) // 2 :] if halves == 2 else arrays
    return sum(math.prod(map(int, dims.split(","))) * _BYTES.get(kind, 1) for kind, dims in of_result)

"""How valid files become hostile ones, and values that no flag should have."""

from __future__ import annotations

import copy
import json
import random
import struct
from typing import Any

from absl import flags

WRONG = (
    *(
        "",
        " ",
        "abc",
        "-1",
        "0",
        "1",
        "7",
        "1.5",
        "1e999",
        "nan",
        "-inf",
        "1,2,3",
        ",",
        ",,",
        "²",
        "٣",
        "1_0",
    ),
    *("99999999999999999999999", "9" * 5000, "-0.5", "1e-400", "5e-324", "1000000000", "100000", "0x10"),
    *("\0", "é", "\udcff", "a\nb", "../..", "/", ".", "~nobody/x", "/dev/null", "/proc/self/mem"),
    *("folder:", "folder:~nobody/x", "folder:/dev/null", "folder:\0", "a" * 5000, "None", "[]", "{}", "%s"),
    *("true", "balanced:", "balanced:2@", "balanced:2@nan,1", "by_block:99999999999", "across_block:²"),
    *("flow:", "flow:0x0", "flow:99999999999x1", "flow:1x99999999999", "tanh:", "tanh:nan", "tanh:1e999"),
    *("GPU:7", "digits", "oai", "--", "=", "😀", "1" + "0" * 30, "-" + "9" * 30, "2147483648", "3.5e38"),
)

NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "3",
    "7",
    "100",
    "5000",
    "100000",
    "1000000000",
    "2147483648",
    "9" * 25,
    "1e30",
    "nan",
)


def damaged(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """Returns bytes that were flipped, cut, repeated, inserted, emptied or replaced."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 3, 10))):
        size = len(content)
        place = rng.randrange(size + 1)
        way = rng.randrange(9)
        if way < 3 and size:
            reach = min(size, 200) if way else size
            content[rng.randrange(reach)] ^= 1 << rng.randrange(8)
        elif way == 3:
            del content[place:]
        elif way == 4:
            content[place:place] = rng.randbytes(rng.randrange(1, 40))
        elif way == 5:
            del content[place : place + rng.randrange(1, 40)]
        elif way == 6:
            content[place:place] = content[place : place + rng.randrange(1, 400)]
        elif way == 7 and size >= 4:
            place = rng.randrange(size - 3)
            content[place : place + 4] = struct.pack("<I", rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**16)))
        elif rng.random() < 0.1:
            content[:] = rng.choice(
                (b"", b"\0" * 1000, other, b"\xff\xfe" + bytes(content), rng.randbytes(300))
            )
    return bytes(content)


def damaged_text(rng: random.Random, text: str) -> bytes:
    """Returns lines that were removed, repeated, swapped, given other values or damaged as bytes."""
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(lines)) if lines else 0
        way = rng.randrange(8)
        if way < 4 and lines:
            key, equals, value = lines[place].partition("=")
            if equals:
                new = rng.choice((rng.choice(WRONG), value + " " + value, value + rng.choice(WRONG)))
                lines[place] = f"{key}={new}"
        elif way == 4 and lines:
            del lines[place]
        elif way == 5 and lines:
            lines.insert(rng.randrange(len(lines) + 1), lines[place])
        elif way == 6:
            lines.insert(
                place, rng.choice(("[", "]", "[DEFAULT]", "[variant ../x]", "x", "a = b", "%(a)s", "\0"))
            )
        else:
            lines.insert(place, rng.choice(WRONG))
    content = "\n".join(lines).encode("utf-8", "surrogateescape")
    return damaged(rng, content) if rng.random() < 0.2 else content


def damaged_json(rng: random.Random, content: Any) -> bytes:
    """Returns JSON in which one value or key is another, or damaged bytes of it."""
    if rng.random() < 0.15:
        return damaged(rng, json.dumps(content).encode())
    if rng.random() < 0.03:
        return rng.choice((b"[" * 100_000, b'{"a":' * 100_000, b"", b"null", b"NaN", b"1" * 10_000, b"\xff"))
    changed = copy.deepcopy(content)
    at, parent, key = changed, None, None
    while isinstance(at, dict | list) and at and (parent is None or rng.random() < 0.7):
        parent, key = at, rng.choice(list(at) if isinstance(at, dict) else range(len(at)))
        at = at[key]
    values = (
        None,
        True,
        0,
        -1,
        1.5,
        1e308,
        10**30,
        float("nan"),
        float("inf"),
        "",
        "x",
        [],
        {},
        [[1]],
        [1, 2],
        "1",
    )
    if isinstance(parent, dict) and rng.random() < 0.2:
        parent[rng.choice(("x", "", "é"))] = parent.pop(key)
    elif rng.random() < 0.15:
        del parent[key]
    else:
        parent[key] = rng.choice((*values, 10**6, 10**9, rng.choice(WRONG)))
    return json.dumps(changed).encode("utf-8", "surrogatepass")


def damaged_csv(rng: random.Random, text: str) -> bytes:
    """Returns a table in which a cell is another, or a line is damaged."""
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 3))):
        place = rng.choice((0, rng.randrange(len(lines)), rng.randrange(len(lines))))
        cells = lines[place].split(",")
        way = rng.randrange(6)
        if way < 4:
            cells[rng.randrange(len(cells))] = rng.choice(('"', *WRONG))
        elif way == 4:
            del cells[rng.randrange(len(cells))]
        else:
            cells *= 2
        lines[place] = ",".join(cells)
    content = "\n".join(lines).encode("utf-8", "surrogateescape")
    return damaged(rng, content) if rng.random() < 0.2 else content


def wrong_flag(rng: random.Random, values: flags.FlagValues) -> str:
    """Returns a flag with a value that it may not have; numbers get more numbers than words."""
    name = rng.choice(list(values))
    numeric = values[name].flag_type() in ("int", "float") and rng.random() < 0.7
    value = rng.choice(NUMBERS if numeric else WRONG)
    if name in ("num", "steps", "draws") and value in ("100", "5000", "100000"):
        value = "7"  # these are right, and take long
    return f"--{name}={value}"

"""Rules of our own that play a puzzle of reasoning-gym with the answer: more than one answer may be right.

Each takes the answer, the right answer that the generator gave, and the puzzle: those fields of the problem's metadata
that :data:`FIELDS` names. Nothing is evaluated, and the time is linear in the answer and in the puzzle. What a puzzle
lacks raises ``KeyError``, ``TypeError`` or ``ValueError``: then there is no verdict.

Library: https://github.com/open-thought/reasoning-gym
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from insight_rl.reward.countdown import evaluate_expression
from insight_rl.reward.reasoning_gym_answers import lines, read_json, same_text

Puzzle = Mapping[str, Any]
PuzzleRule = Callable[[str, str, Puzzle], bool]

_MAPPING = re.compile(r"([A-Z]) ?= ?([0-9])")
_DISK = re.compile(r"Move disk ([0-9]{1,3}) from Peg ([0-9]{1,3}) to Peg ([0-9]{1,3})")
_DIRECTIONS = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
_STEPS = {"R": (0, 1), "D": (1, 0), "L": (0, -1), "U": (-1, 0)}


def solves_cryptarithm(answer: str, right: str, puzzle: Puzzle) -> bool:
    """``A=1,B=2``: a digit of its own for every letter, and the sum holds."""
    words, result = puzzle["words_letters"], puzzle["result_letters"]
    pairs = [_MAPPING.fullmatch(part.strip()) for part in answer.split(",")]
    if None in pairs:
        return False
    digits = {match[1]: match[2] for match in pairs if match is not None}
    if (
        len(digits) != len(pairs)
        or len(set(digits.values())) != len(digits)
        or set(digits) != {*"".join(words), *result}
    ):
        return False
    if not puzzle["allow_leading_zero"] and any(digits[word[0]] == "0" for word in (*words, result)):
        return False
    values = [int("".join(digits[letter] for letter in word)) for word in (*words, result)]
    return sum(values[:-1]) == values[-1]


def colors_graph(answer: str, right: str, puzzle: Puzzle) -> bool:
    """A JSON object from every vertex to a colour, and no edge has the same one at both ends."""
    graph, colors = puzzle["puzzle"], read_json(answer)
    if not isinstance(colors, dict) or set(colors) != {str(vertex) for vertex in graph["vertices"]}:
        return False
    if not all(type(color) is int and color in graph["color_options"] for color in colors.values()):
        return False
    return all(colors[str(a)] != colors[str(b)] for a, b in graph["edges"])


def fills_jugs(answer: str, right: str, puzzle: Puzzle) -> bool:
    """A JSON list of ``fill A``, ``empty A`` and ``pour A->B``; then a jug holds the target."""
    sizes, moves = puzzle["puzzle"]["jug_capacities"], read_json(answer)
    names = [chr(ord("A") + number) for number in range(len(sizes))]
    size, held = dict(zip(names, sizes, strict=True)), dict.fromkeys(names, 0)
    if not isinstance(moves, list):
        return False
    for move in moves:
        verb, _, jugs = move.partition(" ") if isinstance(move, str) else ("", "", "")
        source, _, target = jugs.partition("->")
        if source not in held or (verb == "pour") != (target in held) or (verb != "pour" and target):
            return False
        if verb == "pour":
            amount = min(held[source], size[target] - held[target]) if source != target else 0
            held[source] -= amount
            held[target] += amount
        elif verb in ("fill", "empty"):
            held[source] = size[source] if verb == "fill" else 0
        else:
            return False
    return puzzle["puzzle"]["target"] in held.values()


def solves_kakurasu(answer: str, right: str, puzzle: Puzzle) -> bool:
    """A grid of 0 and 1 whose weighted rows and columns add up."""
    rows, row_sums, col_sums = lines(answer), puzzle["row_sums"], puzzle["col_sums"]
    if [len(row) for row in rows] != [len(col_sums)] * len(row_sums) or not _cells(rows) <= {"0", "1"}:
        return False
    return [_weight(row) for row in rows] == row_sums and [
        _weight(column) for column in zip(*rows, strict=True)
    ] == col_sums


def _cells(rows: list[list[str]]) -> set[str]:
    return {cell for row in rows for cell in row}


def _weight(cells: Any) -> int:
    return sum(position for position, cell in enumerate(cells, start=1) if cell == "1")


def places_queens(answer: str, right: str, puzzle: Puzzle) -> bool:
    """The board with as many queens as rows, the given ones in their places, and none attacks another."""
    rows, given = lines(answer), puzzle["puzzle"]
    size = len(given)
    if [len(row) for row in rows] != [size] * size or not _cells(rows) <= {"_", "Q"}:
        return False
    queens = [(r, c) for r, row in enumerate(rows) for c, cell in enumerate(row) if cell == "Q"]
    if any(given[r][c] == "Q" and rows[r][c] != "Q" for r in range(size) for c in range(size)):
        return False
    kinds = [
        {key(r, c) for r, c in queens}
        for key in (lambda r, c: r, lambda r, c: c, lambda r, c: r + c, lambda r, c: r - c)
    ]
    return len(queens) == size and all(len(kind) == size for kind in kinds)


def makes_24(answer: str, right: str, puzzle: Puzzle) -> bool:
    """An expression of value 24 with each number once, read by the parser of Countdown."""
    evaluated = evaluate_expression(answer)
    return evaluated is not None and evaluated[0] == 24 and sorted(evaluated[1]) == sorted(puzzle["numbers"])


def opens_lock(answer: str, right: str, puzzle: Puzzle) -> bool:
    """As many buttons as in the right answer, ``A -> B``, that lead to the target."""
    presses = answer.replace("\u2192", " ").replace("->", " ").replace(",", " ").split()
    if len(presses) != len(right.replace("\u2192", " ").split()):
        return False
    buttons = {button["name"]: button for button in puzzle["buttons"]}
    value, color = puzzle["initial_value"], puzzle["initial_state"]
    for press in presses:
        button = buttons.get(press)
        if button is None:
            return False
        if button["active_state"] not in (color, "any"):
            continue
        number = button["value"]
        value = {"add": value + number, "subtract": value - number, "multiply": value * number}[button["type"]]
        color = "green" if color == "red" else "red"
    return bool(value == puzzle["target_value"])


def walks_shortest_path(answer: str, right: str, puzzle: Puzzle) -> bool:
    """``right down``: from ``*`` to ``#`` in as many steps as the right answer, through no ``X``; or ``infeasible``."""
    if same_text(answer, right):
        return True
    steps, matrix = answer.split(), puzzle["matrix"]
    if len(steps) != len(right.split()) or not set(steps) <= set(_DIRECTIONS):
        return False
    cells = {(r, c): cell for r, row in enumerate(matrix) for c, cell in enumerate(row)}
    row, column = next(place for place, cell in cells.items() if cell == "*")
    for step in steps:
        row, column = row + _DIRECTIONS[step][0], column + _DIRECTIONS[step][1]
        if cells.get((row, column), "X") == "X":
            return False
    return cells[row, column] == "#"


def solves_sokoban(answer: str, right: str, puzzle: Puzzle) -> bool:
    """Steps ``LRUD``, after which every box is on a goal; a step into a wall or an immovable box does nothing."""
    cells = {(r, c): cell for r, row in enumerate(lines(puzzle["gamestr"])) for c, cell in enumerate(row)}
    if not answer or not set(answer) <= set(_STEPS):
        return False
    walls = {place for place, cell in cells.items() if cell == "+"}
    boxes = {place for place, cell in cells.items() if cell in "@$"}
    goals = {place for place, cell in cells.items() if cell in "X$%"}
    row, column = next(place for place, cell in cells.items() if cell in "*%")
    for step in answer:
        down, across = _STEPS[step]
        to, beyond = (row + down, column + across), (row + 2 * down, column + 2 * across)
        if to in walls or to not in cells:
            continue
        if to in boxes:
            if beyond in walls or beyond in boxes or beyond not in cells:
                continue
            boxes = (boxes - {to}) | {beyond}
        row, column = to
    return boxes <= goals


def solves_survo(answer: str, right: str, puzzle: Puzzle) -> bool:
    """The grid with the given numbers in its empty cells; the last of each row and column is the sum of the others."""
    rows, given = lines(answer), puzzle["puzzle"]
    is_grid = [len(row) for row in rows] == [len(row) for row in given]
    if not is_grid or not all(re.fullmatch("[0-9]{1,12}", cell) for row in rows for cell in row):
        return False
    grid = [[int(cell) for cell in row] for row in rows]
    pairs = [pair for row, goal in zip(grid, given, strict=True) for pair in zip(row, goal, strict=True)]
    if any(goal not in (0, cell) for cell, goal in pairs):
        return False
    if sorted(cell for cell, goal in pairs if goal == 0) != sorted(puzzle["candidate_numbers"]):
        return False
    return all(sum(line[:-1]) == line[-1] for line in (*grid, *zip(*grid, strict=True)))


def moves_tower(answer: str, right: str, puzzle: Puzzle) -> bool:
    """``Move disk 1 from Peg 1 to Peg 3``, one a line, in no more moves than the right answer."""
    pegs: dict[int, list[int]] = {peg: [] for peg in range(1, puzzle["num_pegs"] + 1)}
    tower = list(range(puzzle["num_disks"], 0, -1))
    pegs[puzzle["start_peg"]] = tower.copy()
    moves = [line.strip() for line in answer.splitlines() if line.strip()]
    if len(moves) > puzzle["solution_length"]:
        return False
    for move in moves:
        match = _DISK.fullmatch(move)
        if match is None:
            return False
        disk, source, target = int(match[1]), pegs.get(int(match[2])), pegs.get(int(match[3]))
        if source is None or target is None or source[-1:] != [disk] or (target and target[-1] < disk):
            return False
        target.append(source.pop())
    return pegs[puzzle["target_peg"]] == tower


RULES: dict[str, PuzzleRule] = {
    "cryptarithm": solves_cryptarithm,
    "graph_color": colors_graph,
    "jugs": fills_jugs,
    "kakurasu": solves_kakurasu,
    "n_queens": places_queens,
    "puzzle24": makes_24,
    "quantum_lock": opens_lock,
    "shortest_path": walks_shortest_path,
    "sokoban": solves_sokoban,
    "survo": solves_survo,
    "tower_of_hanoi": moves_tower,
}

FIELDS: dict[str, tuple[str, ...]] = {
    "cryptarithm": ("words_letters", "result_letters", "allow_leading_zero"),
    "graph_color": ("puzzle",),
    "jugs": ("puzzle",),
    "kakurasu": ("row_sums", "col_sums"),
    "n_queens": ("puzzle",),
    "puzzle24": ("numbers",),
    "quantum_lock": ("buttons", "initial_value", "initial_state", "target_value"),
    "shortest_path": ("matrix",),
    "sokoban": ("gamestr",),
    "survo": ("puzzle", "candidate_numbers"),
    "tower_of_hanoi": ("num_disks", "num_pegs", "start_peg", "target_peg", "solution_length"),
}
"""What of a problem's metadata goes into ``Prompt.answer["puzzle"]``."""

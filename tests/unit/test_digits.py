"""A limit, shown as it is: exact sums of an iterated fit have all their digits, and tell how many patients have each age."""

import numpy as np

from client import disclosure
from client.kernels.answer import answer
from client.kernels.rows import Rows
from common.query import ask
from tests.unit.test_disclosure_attacks import POLICY

PRIME = 2**127 - 1
AGES = np.arange(40, 86)
STEPS = [(0.1 * at - 0.8, 0.3 * at - 2.0) for at in range(15)]
INFORMATION = slice(5, 8)  # of the answer: it does not depend on the outcome


def rows(age: np.ndarray) -> Rows:
    y = (np.arange(len(age)) % 5 < 2).astype(float)
    return Rows(names=("y", "age"), values=np.column_stack([y, age]), lower=(0.0, 0.0), upper=(1.0, 128.0))


def solved(equations: list[list[int]], values: list[int]) -> list[int]:
    """Solve for whole numbers, modulo a prime; raises StopIteration where the equations do not determine them."""
    matrix = [[entry % PRIME for entry in (*row, value)] for row, value in zip(equations, values, strict=True)]
    width = len(equations[0])
    for at in range(width):
        top = next(row for row in range(at, len(matrix)) if matrix[row][at])
        matrix[at], matrix[top] = matrix[top], matrix[at]
        inverse = pow(matrix[at][at], -1, PRIME)
        first = matrix[at] = [entry * inverse % PRIME for entry in matrix[at]]
        for row, entries in enumerate(matrix):
            if row != at and (times := entries[at]):
                matrix[row] = [(entry - times * other) % PRIME for entry, other in zip(entries, first, strict=True)]
    return [row[-1] for row in matrix[:width]]


def test_fifteen_steps_of_a_fit_on_whole_years_count_every_year_over_all_hospitals():
    """The day that this fails, client/README.md ('What is not prevented') promises too little."""
    random = np.random.default_rng(4)
    hospitals = [np.clip(np.rint(random.normal(62, 9, 160)), 40, 85) for _ in range(4)]
    equations, values = [[1] * len(AGES)], [4 * 160]
    for first, slope in STEPS:
        asked = ask("logistic", responses=["y"], predictors=["age"], numbers={"coefficients": [first, slope]})
        total = np.zeros(3, dtype=object)
        for held in map(rows, hospitals):
            disclosure.check_query(POLICY, asked=asked, rows=held)
            total += answer(held, query=asked).values[INFORMATION]
        each = [answer(rows(np.array([float(age)])), query=asked).values[INFORMATION] for age in AGES]
        equations += [[int(one[at]) for one in each] for at in range(3)]
        values += [int(value) for value in total]
    counts = [sum(int((held == age).sum()) for held in hospitals) for age in AGES]
    assert solved(equations, values) == counts
    assert 1 in counts

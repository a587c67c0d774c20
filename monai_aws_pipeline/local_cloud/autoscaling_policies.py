"""What a scaling policy makes of a metric: pure functions from values to a desired capacity.

Source: Amazon EC2 Auto Scaling User Guide, "Step and simple scaling policies", "Target tracking scaling policies"; CloudWatch User Guide,
"Using metric math".
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

LOW_LOOKS: Final = 15
"""How many looks in a row must be low before target tracking lets go: AWS's alarm has 15 periods."""
_OPERATORS: Final[dict[type, Callable[[float, float], float]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Gt: operator.gt, ast.Lt: operator.lt, ast.GtE: operator.ge, ast.LtE: operator.le, ast.Eq: operator.eq,
}  # fmt: skip


def tracked(current: int, value: float, target: float) -> int:
    """The capacity at which a metric that falls as capacity grows would be at its target. A group of none is taken for one."""
    return math.ceil(round(max(current, 1) * value / target, 6))


def stepped(current: int, breach: float, policy: Mapping[str, Any]) -> int:
    """The capacity after the step that a breach of the alarm's threshold (value less threshold) falls into."""
    for step in policy.get("StepAdjustments", []):
        low, high = step.get("MetricIntervalLowerBound", -math.inf), step.get("MetricIntervalUpperBound", math.inf)
        inside = low < breach <= high if high <= 0 else low <= breach < high
        if inside:
            return adjusted(current, int(step["ScalingAdjustment"]), policy)
    return current


def adjusted(current: int, amount: int, policy: Mapping[str, Any]) -> int:
    """The capacity after an adjustment, by the policy's AdjustmentType."""
    kind = policy.get("AdjustmentType")
    if kind == "ExactCapacity":
        return amount
    if kind != "PercentChangeInCapacity":
        return current + amount
    change = current * amount / 100
    whole = math.trunc(change) if abs(change) >= 1 else (0 if not change else int(math.copysign(1, change)))
    least = int(policy.get("MinAdjustmentMagnitude", 0))
    return current + (whole if abs(whole) >= least else int(math.copysign(least, amount)))


def within(wanted: int, smallest: int, largest: int) -> int:
    """What a policy may ask of a group: never beyond its limits."""
    return max(smallest, min(wanted, largest))


def value_of(queries: Sequence[Mapping[str, Any]], metric: Callable[[Mapping[str, Any]], float | None]) -> float | None:
    """The value of the one query that returns data, None where there is no data for it, as after a division by zero.

    ``metric`` gives the value of a MetricStat. Raises ValueError for an expression that is not emulated.
    """
    by_id = {str(query["Id"]): query for query in queries}

    def value(name: str) -> float | None:
        query = by_id.get(name)
        if query is None:
            raise ValueError(f"The metric {name} is not defined.")
        return math_of(str(query["Expression"]), value) if "Expression" in query else metric(query["MetricStat"])

    returned = [str(query["Id"]) for query in queries if query.get("ReturnData", True)]
    if len(returned) != 1:
        raise ValueError("Exactly one of the metrics must return data.")
    return value(returned[0])


def math_of(expression: str, value: Callable[[str], float | None]) -> float | None:
    """Metric math with numbers, ids, + - * /, comparisons, IF, FILL, MAX, MIN, SUM, CEIL and FLOOR.

    Raises ValueError for anything else.
    """
    try:
        return _worth(ast.parse(expression.strip(), mode="eval").body, value)
    except (SyntaxError, RecursionError) as error:
        raise ValueError(f"The expression {expression} is not emulated.") from error


def _worth(node: ast.expr, value: Callable[[str], float | None]) -> float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    if isinstance(node, ast.Name):
        return value(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        found = _worth(node.operand, value)
        return None if found is None else -found
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _combined(type(node.op), _worth(node.left, value), _worth(node.right, value))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _OPERATORS:
        return _combined(type(node.ops[0]), _worth(node.left, value), _worth(node.comparators[0], value))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _called(node.func.id, node.args, value)
    raise ValueError(f"{ast.unparse(node)} is not emulated.")


def _combined(kind: type, left: float | None, right: float | None) -> float | None:
    if left is None or right is None or (kind is ast.Div and right == 0):
        return None
    return float(_OPERATORS[kind](left, right))


def _called(name: str, arguments: list[ast.expr], value: Callable[[str], float | None]) -> float | None:
    if name == "IF" and len(arguments) == 3:
        chosen = _worth(arguments[0], value)
        return None if chosen is None else _worth(arguments[1] if chosen else arguments[2], value)
    if name == "FILL" and len(arguments) == 2:
        found = _worth(arguments[0], value)
        return _worth(arguments[1], value) if found is None else found
    listed = arguments[0].elts if len(arguments) == 1 and isinstance(arguments[0], ast.List) else arguments
    known = [found for each in listed if (found := _worth(each, value)) is not None]
    whole: dict[str, Callable[[list[float]], float]] = {
        "MAX": max, "MIN": min, "SUM": math.fsum,
        "CEIL": lambda values: math.ceil(values[0]), "FLOOR": lambda values: math.floor(values[0]),
    }  # fmt: skip
    if name not in whole:
        raise ValueError(f"{name} is not emulated.")
    return float(whole[name](known)) if known else None

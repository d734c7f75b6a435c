"""Which operator keeps a node up to date?"""

from __future__ import annotations

from typing import TypeAlias

from unbounded.connectors import Mode
from unbounded.operators import Operator
from unbounded.operators.aggregate import AggregateOperator
from unbounded.operators.asof import AsofJoinOperator
from unbounded.operators.in_order import InOrderOperator
from unbounded.operators.joined import StreamJoinOperator
from unbounded.operators.keep import KeepOperator
from unbounded.operators.ordered import OrderedOperator
from unbounded.operators.positioned import PositionedOperator
from unbounded.operators.sessions import SessionOperator
from unbounded.operators.unique import UniqueOperator
from unbounded.plan import Aggregate, InOrder, Keep, Node, Positioned, Unique
from unbounded.plan.asof import AsofJoin
from unbounded.plan.ordered import Ordered, Rolling
from unbounded.plan.pairs import StreamJoin
from unbounded.plan.sessions import Sessions

__all__ = ["Joining", "kind_of", "operator_of"]

Joining: TypeAlias = StreamJoinOperator | AsofJoinOperator
"""An operator of two inputs."""


def kind_of(node: Node) -> str | None:
    """What the operator of a node is called, with its number behind; None for a node that remembers nothing."""
    match node:
        case Sessions():
            return "session"
        case Aggregate():
            return "aggregate"
        case Unique():
            return "unique"
        case Positioned() | Keep():
            return node.verb
        case InOrder():
            return "merge_sorted"
        case Ordered():
            return "over"
        case Rolling():
            return "rolling"
        case StreamJoin():
            return "join"
        case AsofJoin():
            return "join_asof"
    return None


def operator_of(id: str, node: Node, mode: Mode, seen: str | None) -> Operator | Joining:
    """The operator of a node that has a kind; `seen` is as for an aggregate."""
    match node:
        case Sessions():
            return SessionOperator(id, node, mode, seen)
        case Aggregate():
            return AggregateOperator(id, node, mode, seen)
        case Unique():
            return UniqueOperator(id, node)
        case Positioned():
            return PositionedOperator(id, node)
        case Keep():
            return KeepOperator(id, node)
        case InOrder():
            return InOrderOperator(id, node)
        case Ordered() | Rolling():
            return OrderedOperator(id, node)
        case StreamJoin():
            return StreamJoinOperator(id, node)
        case AsofJoin():
            return AsofJoinOperator(id, node)
    raise AssertionError(node)

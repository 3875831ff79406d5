"""The rules by which a base is stored. A new rule is one file beside these, and one row of this table."""

from ivfast.store.rules import benefit, membership, ratio
from ivfast.store.rules.rule import RuleKind

RULES: dict[str, RuleKind] = {
    "ratio": RuleKind(ratio.make, fitted=False),
    "membership": RuleKind(membership.make, fitted=True),
    "benefit": RuleKind(benefit.make, fitted=True, asks=True),
}

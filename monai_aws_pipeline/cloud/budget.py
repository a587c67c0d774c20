"""AWS Budgets: what was spent of one budget, as AWS reckons it up to three times a day.

Source: AWS Budgets API Reference, "DescribeBudget".
"""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import code_of, named


def spent_of(client: Any, account: str, name: str) -> tuple[float, float] | None:
    """What was spent in the running period, and the limit, in the budget's currency (ours: USD); None where there is no such budget."""
    try:
        budget = client.describe_budget(AccountId=account, BudgetName=name)["Budget"]
    except ClientError as error:
        if code_of(error) == "NotFoundException":
            return None
        raise named(error, f"looking at the budget {name}") from error
    spent = budget.get("CalculatedSpend", {}).get("ActualSpend", {}).get("Amount", "0")
    return float(spent), float(budget["BudgetLimit"]["Amount"])

"""What a machine costs by the hour: AWS's published on-demand Linux prices, as of the date below, in US dollars.

A table and not the Price List API: a cost estimate must not fail or wait when a price cannot be asked. It is an estimate; the bill
is the truth. Source: EC2 on-demand pricing pages, us-east-1.
"""

from __future__ import annotations

from typing import Final

AS_OF: Final = "2025-06"
ON_DEMAND_USD_PER_HOUR: Final[dict[str, float]] = {
    "g4dn.xlarge": 0.526,
    "g4dn.2xlarge": 0.752,
    "g4dn.4xlarge": 1.204,
    "g5.xlarge": 1.006,
    "g5.2xlarge": 1.212,
    "g6.xlarge": 0.8048,
    "g6.2xlarge": 0.9776,
}


def usd_per_hour(instance_type: str) -> float:
    """Price of one hour in USD, 0.0 for a type that the table does not have."""
    return ON_DEMAND_USD_PER_HOUR.get(instance_type, 0.0)


def basis(region: str) -> str:
    """What the prices of this table rest on, in words."""
    note = "" if region == "us-east-1" else f", not adjusted for {region}"
    return f"on demand, us-east-1 list price of {AS_OF}{note}"

"""monai_aws_pipeline: MONAI models put to work on AWS, as one Dagster lineage graph.

This module stays empty: the wake function and the host agent import ``contract`` through it and have the standard library only.
"""

__version__ = "0.1.0"

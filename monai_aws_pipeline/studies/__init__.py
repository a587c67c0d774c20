"""The lineage of a study: the asset ``inference_result``, the sensor that records results onto it, and what both write down.

Here belongs what turns commit records into Dagster events. How results are made belongs to ``host_agent``; how the platform is
built belongs to ``deployment``.
"""

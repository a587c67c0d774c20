"""The lineage of the platform, one module an asset: map_source, gpu_ami, map_image, inference_host, s3_trigger.

Each asset reads *observe → plan (a pure function) → apply → record*. Here belongs what should exist and why; how AWS is called
belongs in ``cloud``, how a MAP is put together in ``maps``. See https://docs.dagster.io/guides/build/assets
"""

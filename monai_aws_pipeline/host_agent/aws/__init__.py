"""The host's ways to AWS, one module each: bucket, queue of jobs, instance metadata, the notice of a spot interruption."""

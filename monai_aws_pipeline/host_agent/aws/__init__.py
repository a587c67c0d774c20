"""The host's ways to AWS, one module each: bucket, queue of jobs, instance metadata, spot interruption, place in an Auto Scaling group."""

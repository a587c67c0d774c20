"""What a MAP is made of: sources, manifests, wheels, build contexts, conformance."""

"""Image and manifests agree with the code."""

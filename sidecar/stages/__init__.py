"""The pipeline's stages: one file, one function of its name; they never import each other."""

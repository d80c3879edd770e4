"""The fast engine: the training step as a few loops that Halide compiles for the processor it runs on."""

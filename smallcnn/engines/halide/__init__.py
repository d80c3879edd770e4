"""The fast engine: the training step as a few loops that Halide compiles for the processor it runs on.

A framework hands each operation to a library that was tuned for hundreds of channels. These networks have 1 to 32,
and most of a core's time goes into padding, copying and walking through memory. The loops here are made for few
channels instead. Three ideas carry them.

**Sixteen images side by side.** Arrays of activations are `[pack, channel, row, column, lane]`: a pack holds 16
images, and the last axis, contiguous in memory, has one number of each. A vector register then holds the same pixel
of 8 or 16 images, and a convolution is nothing but "weight × vector" added up, for any number of channels. A batch of
125 images is 8 packs whose last three lanes are ghosts; `lane_mask` keeps them out of sums and gradients.

**Sums stay in registers.** A small tile of outputs, some filters × some columns, is held in registers while all
channels and taps are added, so that every load feeds several multiply-adds. `convolution` weighs the possible tiles.

**Few passes over memory.** Whatever can be said in one formula is computed in one loop: normalisation, pooling and
dropout together, bias and ReLU at the end of a convolution, the gradients of all three while they are read. The first
block has the largest maps and the cheapest convolution, so its maps are never kept: whoever needs a few rows of them
computes these once more (`convolution.get_activation`).

Batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167) needs sums over the whole batch. A block of the network
computes

    x = max(kernel ∗ input + bias, 0),   x̂ = (x − μ) / √(σ² + ε),   y = γ x̂ + β,   output = dropout(pool(y)).

A training step is three pipelines. `forward` goes from images to the probabilities of the classes, and keeps input, μ
and 1/√(σ² + ε) of every block, and x of all but the first. `backward` goes back from there to the gradients of all
weights; g is ∂loss/∂y. `update` then changes the weights. NumPy is left with gathering the images of a batch.

**The same bits everywhere.** Stages that walk over the images share out the packs among the cores. Each pack's sums are
kept and then added in the order of the packs, so the number of cores changes nothing. Nor does the processor, if it
has fused multiply-adds: a sum of products is a loop, each step of which is one of these, and every other formula is a
`strict_float`, rounded as it is written. Anything else a compiler may reorder, and it does so differently for
different processors, or for tiles of other sizes.

In Halide a `Func` is a formula over coordinates, innermost first, and its schedule says in which loops it is computed.

The files, each of which imports only from those before it: `blocks` says which networks there are, `target` for which
processor they are compiled, `arrays` what pipelines read and write; `functions`, `loops`, `convolution` and `output`
are what the way forward and the way back share; then `forward`, `backward`, `update`, and the `engine` around them.
"""

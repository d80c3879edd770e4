"""The fast engine: the training step as a few loops that Halide compiles for the processor it runs on.

A framework hands each operation to a library that was tuned for hundreds of channels. These networks have 1 to 32,
and most of a core's time goes into padding, copying and walking through memory. The loops here are made for few
channels instead.

**Halide in one example.** A `Func` is a formula over coordinates, innermost first. An `RDom` is a loop that adds up. A
schedule, apart from the formulas, says in which loops they are computed. A row is smoothed and then convolved with
three taps; `compute_at` computes of the smoothed row what a strip of eight results needs, within the loop over strips:

>>> import halide as hl, numpy as np
>>> x, strip = hl.Var("x"), hl.Var("strip")
>>> row, kernel = hl.Buffer(np.arange(67, dtype=np.float32)), hl.Buffer(np.array([1, 2, 3], np.float32))
>>> smooth, result, tap = hl.Func("smooth"), hl.Func("result"), hl.RDom([(0, 3)], "tap")
>>> smooth[x] = (row[x] + row[x + 1]) / 2.0                      # formula: at each x
>>> total = hl.Func("total")
>>> total[x] = hl.f32(0)
>>> total[x] += kernel[tap.x] * smooth[x + tap.x]                # formula: for each tap, one more product
>>> result[x] = total[x]
>>> _ = result.split(x, strip, x, 8).vectorize(x).parallel(strip)        # schedule: strips of one vector, on all cores
>>> _ = total.compute_at(result, strip).vectorize(x).update().vectorize(x)       # sums of a strip, in a register
>>> _ = smooth.compute_at(result, strip).vectorize(x)                    # ten values of it a strip, no array of all
>>> np.array(result.realize([64]))[:3].tolist()
[11.0, 17.0, 23.0]

**Sixteen images side by side.** Arrays of activations are `[pack, channel, row, column, lane]`: a pack holds 16
images, and the last axis, contiguous in memory, has one number of each. A vector register then holds the same pixel
of 8 or 16 images, and a convolution is nothing but "weight × vector" added up, for any number of channels. A batch of
125 images is 8 packs whose last three lanes are ghosts; `lane_mask` keeps them out of sums and gradients.

**Sums stay in registers.** A small tile of outputs, some filters × some columns, is held in registers while all
channels and taps are added, so that every load feeds several multiply-adds. `convolution` weighs the possible tiles.

**Layers, and blocks of them.** `layers` has a file for each kind of layer with its formula, its gradients and its
schedule, and `chain` computes any sequence of them, one after the other. To add a kind, write such a file and name it
there. Chains of blocks like those of the published networks are `fused` instead, in fewer passes over memory: whatever
can be said in one formula is computed in one loop, normalisation, pooling and dropout together, bias and ReLU at the
end of a convolution, the gradients of all three while they are read. The first block has the largest maps and the
cheapest convolution, so its maps are never kept: whoever needs a few rows of them computes these once more
(`convolution.get_activation`). With g = ∂loss/∂y, a block of the network computes

    x = max(kernel ∗ input + bias, 0),   x̂ = (x − μ) / √(σ² + ε),   y = γ x̂ + β,   output = dropout(pool(y)).

This takes three quarters to two fifths of the time of the same network layer by layer.

A training step is three pipelines: forward, from images to the probabilities of the classes; backward, from there to
the gradients of all weights; and `update`, which changes the weights. NumPy is left with gathering the images of a
batch.

**The same bits everywhere.** Stages that walk over the images share out the packs among the cores. Each pack's sums are
kept and then added in the order of the packs, so the number of cores changes nothing. Nor does the processor, if it
has fused multiply-adds: a sum of products is a loop, each step of which is one of these, and every other formula is a
`strict_float`, rounded as it is written. Anything else a compiler may reorder, and it does so differently for
different processors, or for tiles of other sizes.

The files, each of which imports only from those before it: `blocks` says which networks are blocks, `target` for which
processor they are compiled, `arrays` what pipelines read and write; `functions`, `loops`, `convolution`, `output` and
`ends` are what all ways share; `layers` and `chain`; `forward`, `backward` and `fused`; `update`, and the `engine`
around them.
"""

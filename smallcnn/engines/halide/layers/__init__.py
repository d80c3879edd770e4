"""One file for each kind of layer: its formula, its gradients, and in which loops they are computed.

`base` says what a layer is to the engine. To add a kind, write its file after the model of one of these and name it in
`chain.KINDS`. For the same bits everywhere, write every formula in `hl.strict_float`, and sums of products as loops
with one multiply-add in each step.
"""

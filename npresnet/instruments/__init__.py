"""What is held against the network: nothing here computes a layer, it looks at those that do.

    comparison.py   two runs held against each other, layer by layer
    parity.py       timm with the same tensors, to hold the network against
    bench.py        npresnet beside the runtimes people deploy: rounds, processes, table
    contenders.py   how each of them is started and timed
    roofline.py     a picture of what each layer reaches
"""

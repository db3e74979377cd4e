"""The fast CPU engine, in NumPy and Numba: the same network and weights as `npresnet/network.py`, arranged for the machine.

    target.py     which vectors the machine has, and what shape a tile is
    kernels.py    the inner loop: a tile of a convolution in vector instructions
    winograd.py   the 3×3 convolution with fewer multiplications
    loops.py      the one compiled function, run by all threads together
    plan.py       from a network and a picture size to a table of operations
    engine.py     what the model holds: plans, runs, gives NCHW back
"""

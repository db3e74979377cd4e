"""What both engines share on the way from the network to the machine. It knows neither of them.

    placement.py     one workspace for all activations: where each lies
    folding.py       a batch norm as a multiplication and an addition
    recent.py        plans that were used last, kept
    sources.py       a digest of sources, by which compiled code is known on disk
    announcement.py  a line for the user while that is made
"""

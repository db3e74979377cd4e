"""What both engines share on the way from the network to the machine. It knows neither of them.

    placement.py     one workspace for all activations: where each lies
    folding.py       a batch norm as a multiplication and an addition
    recent.py        plans that were used last, kept
    sources.py       a digest of sources, by which compiled code is known on disk
    cache.py         where that code lies, and what of it is believed
    announcement.py  a line for the user while that is made
    crew.py          threads that work for an engine; no interrupt or fork leaves it stuck
    cores.py         how many of them are worth starting
"""

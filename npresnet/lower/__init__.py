"""What both engines share on the way from the network to the machine. It knows neither of them.

    sources.py     a digest of sources, by which compiled code is known on disk
"""

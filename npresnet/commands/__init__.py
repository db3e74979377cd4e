"""The commands, one file each; `npresnet/cli.py` assembles them.

A command is a module: its name is the command's, HELP says what it does, EXAMPLE shows one call,
`add_options(parser)` adds its arguments, and `run(args)` does the work and returns the exit code.
What they share stands in `common.py`.
"""

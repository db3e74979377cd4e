"""`python -m npresnet` is the command `npresnet`."""
import gc
import sys


def run() -> int:
    """The command line as a process of its own.

    Numba brings half a million objects that live until the end. Looking through them for garbage,
    again and again while they are loaded and once more at the exit, would take a third of the time
    to an answer.
    """
    gc.set_threshold(200_000, 20, 20)
    try:
        from .cli import main
        return main()
    except KeyboardInterrupt:                                     # in the first moments
        return 130
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(run())

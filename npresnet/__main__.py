"""`python -m npresnet` is the command `npresnet`."""
import sys

from .cli import main

sys.exit(main())

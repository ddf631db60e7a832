"""`python -m embedded COMMAND`, which `./r3edge` calls."""

import sys

from embedded.cli import main

sys.exit(main())

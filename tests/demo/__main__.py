"""`python -m demo`: the whole story on a real Kubernetes where one can run, told in the terminal; see `make demo`."""

from __future__ import annotations

import sys

from demo.story import main

sys.exit(main())

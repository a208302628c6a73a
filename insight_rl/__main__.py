"""``python -m insight_rl`` is the ``insight-rl`` command."""

import sys

from insight_rl.cli.main import main

sys.exit(main())

"""`python -m fedhft.cli` is `fedhft`."""

import sys

from fedhft.cli.main import main

sys.exit(main())

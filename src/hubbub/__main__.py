"""`python -m hubbub` is `hubbub`.

Answers for: nothing but that.
"""

import sys

from hubbub.cli import main

sys.exit(main())

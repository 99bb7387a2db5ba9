"""The version of this package.

Answers for: the one place where it stands; pyproject.toml reads it from here. Refuses to know: anything else.
"""

VERSION = "0.1.0"

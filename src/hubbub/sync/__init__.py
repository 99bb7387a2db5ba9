"""The blocking face, for Flask, Django views, Celery and scripts: `from hubbub.sync import Hubbub`."""

from hubbub.sync.face import Hubbub

__all__ = ["Hubbub"]

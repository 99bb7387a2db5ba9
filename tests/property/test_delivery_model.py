"""The delivery model over the memory broker itself: see `delivery_machine`."""

from __future__ import annotations

import pytest
from tests.property.delivery_durable import DurableDelivery

TestDelivery = pytest.mark.timeout(900)(DurableDelivery.TestCase)

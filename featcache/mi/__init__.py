"""Mutual information, in nats: estimators to choose from, and the terms that objectives are made of.

- `featcache.mi.estimators`, exported here, are pure functions of a matrix of scores. A user chooses one of
  them; featcache itself does not.
- `featcache.mi.terms` holds InfoNCE, moving averages, divergences and losses of critics. Objectives and
  estimators use these.
"""

from __future__ import annotations

from featcache.mi.estimators import (
    Bound,
    barber_agakov,
    donsker_varadhan,
    infonce,
    jensen_shannon,
    nwj,
    smile,
)

__all__ = ["Bound", "barber_agakov", "donsker_varadhan", "infonce", "jensen_shannon", "nwj", "smile"]

"""Estimators of mutual information: pure functions of a matrix of scores, in nats."""

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

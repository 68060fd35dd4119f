"""URL tables: read, checked, sorted by server and cut into batches, in bounded memory."""

from .partition import make_plan
from .plan import BatchInfo, Plan, open_plan

__all__ = ["BatchInfo", "Plan", "make_plan", "open_plan"]

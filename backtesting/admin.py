"""What is computed for traders, in the admin."""

from __future__ import annotations

import backtesting.study_admin  # noqa: F401  # the page of studies registers itself

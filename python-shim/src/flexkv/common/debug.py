"""The logger under the name that FlexKV users import."""

from __future__ import annotations

import logging

flexkv_logger = logging.getLogger("flexkv")

"""x"""

from typing import Any


class Clock:
    """x"""

    def loads(self, row: Any) -> Any:
        """x"""

"""The log: one line a record, as text for people or as JSON, and no client can forge a line.

A record may carry ``fields`` (``extra={"fields": {...}}``): members of the JSON object, or
``name=value`` at the end of the text. They hold no media, file name, query, header or key.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from service.settings import Settings

#: Of the lines about single requests; the guard writes them.
ACCESS = "service.access"
NEVER = logging.CRITICAL + 1


def configure(settings: Settings) -> None:
    """Send every logger of the process to stderr in the format of the settings."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    logging.captureWarnings(True)
    # Whoever asks for these lines wants to see them, whatever the level of the others is.
    logging.getLogger(ACCESS).setLevel(logging.INFO if settings.access_log else NEVER)


class JsonLines(logging.Formatter):
    """One JSON object a line, in ASCII; an exception is one member of it."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class TextLines(logging.Formatter):
    """Time, level, logger, message and fields; the lines of an exception are set in below."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        head = f"{self.formatTime(record)} {record.levelname} {record.name}: "
        lines = [printable(f"{head}{record.getMessage()}{fields}")]
        if record.exc_info:
            told = self.formatException(record.exc_info).split("\n")
            lines += [f"    {printable(line)}" for line in told]
        return "\n".join(lines)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a record carries and knows; a field without a value is left out."""
    fields = getattr(record, "fields", {})
    return {name: value for name, value in fields.items() if value is not None}


def printable(text: str) -> str:
    """The text with line breaks and everything else that a terminal may obey written out."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )

"""Every module of this folder exports."""

from __future__ import annotations

from tests.helpers import exporter

tables_of_operators = exporter.tables_of_operators

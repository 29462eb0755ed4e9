"""Every module of this folder exports."""

from __future__ import annotations

from tests.helpers import exporter

one_table_of_operators = exporter.one_table_of_operators

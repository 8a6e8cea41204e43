"""Records as an HTML page, as pictures and as tables for the terminal."""

from dovetail.report.page import write_report
from dovetail.report.plan import plan_table, write_plan
from dovetail.report.table import inspect_table, profile_tables, summary_table

__all__ = ["inspect_table", "plan_table", "profile_tables", "summary_table", "write_plan", "write_report"]

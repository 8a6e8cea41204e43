"""Records as an HTML page, as pictures and as tables for the terminal."""

from dovetail.report.benchmark import BenchmarkCard, benchmark_card
from dovetail.report.chip_page import write_chip_report
from dovetail.report.chip_table import chip_tables, chips_table, sources_table
from dovetail.report.engine_table import comparisons_table, kernels_table, outputs_table, predictions_table
from dovetail.report.page import write_report
from dovetail.report.plan import plan_table, write_plan
from dovetail.report.table import inspect_table, profile_tables, summary_table

__all__ = [
    "BenchmarkCard",
    "benchmark_card",
    "chip_tables",
    "chips_table",
    "comparisons_table",
    "inspect_table",
    "kernels_table",
    "outputs_table",
    "plan_table",
    "predictions_table",
    "profile_tables",
    "sources_table",
    "summary_table",
    "write_chip_report",
    "write_plan",
    "write_report",
]

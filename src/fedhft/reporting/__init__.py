"""How a job is shown: result, table, report, plots."""

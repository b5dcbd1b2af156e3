"""What a finished job is shown as: result, table, report, plots."""

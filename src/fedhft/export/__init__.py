"""From a job to files that others load: PEFT directories, their cards."""

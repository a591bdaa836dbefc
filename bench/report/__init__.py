"""From records to tables and figures. Reads results only; runs nothing."""

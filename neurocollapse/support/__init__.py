"""What every package stands on: files in one step, names, tables, provenance."""

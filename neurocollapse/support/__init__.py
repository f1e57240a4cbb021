"""What every package stands on: files in one step, names, numbers for readers, tables, provenance."""

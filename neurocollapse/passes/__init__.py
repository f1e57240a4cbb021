"""One pass of a model over a loader before many sinks."""

"""Pure decisions: no I/O, no clock, no kopf, no kubernetes. Frozen inputs in, a `Plan` out."""

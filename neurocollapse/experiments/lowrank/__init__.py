"""Networks with thin layers beside full ones."""

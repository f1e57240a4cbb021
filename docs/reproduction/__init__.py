"""The page of printed numbers and what was measured of them, from small files that hold one run's outcome each."""

def add_rows(
    sizes: tuple[int, int, int, int, int],
    addresses: tuple[int, int, int, int, int, int, int, int, int, int],
    double: tuple[bool, bool],
    /,
) -> None: ...

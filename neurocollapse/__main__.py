"""`python -m neurocollapse`, and with it `torchrun -m neurocollapse`."""

from neurocollapse.cli import main

if __name__ == "__main__":
    main()

"""What can go wrong in transfer."""


class TransferError(ValueError):
    """A model that cannot be tuned, stored, loaded or merged as asked; the message is one line that says what to do."""

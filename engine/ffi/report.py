"""Messages of the set-up."""


class SetupError(Exception):
    """Error with a message for the user: what is wrong, and what to do."""


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)

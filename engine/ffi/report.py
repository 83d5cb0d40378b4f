"""How the set-up talks to the user."""


class SetupError(Exception):
    """What is wrong, and what to do about it, in words for the user."""


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)

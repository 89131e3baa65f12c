"""Keeps orbax's running commentary out of the program's output."""

import logging

from absl import logging as absl_logging


def _is_wanted(record: logging.LogRecord) -> bool:
    # Orbax writes to the logger that all absl programs share, so its records are told
    # by the file they come from. Real failures reach the caller as exceptions.
    path = record.pathname.replace("\\", "/")
    return record.levelno >= logging.ERROR or "/orbax/" not in path


def silence() -> None:
    """Drops orbax's records below ERROR; calling it again changes nothing."""
    logger = absl_logging.get_absl_logger()
    if _is_wanted not in logger.filters:
        logger.addFilter(_is_wanted)

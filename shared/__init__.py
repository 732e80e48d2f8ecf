"""What all DAGs share."""

__version__ = "0.1.0"

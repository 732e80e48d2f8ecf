"""The parts that DAGs are built from."""

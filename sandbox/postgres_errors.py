"""What can go wrong with the embedded PostgreSQL server.

EmbeddedPostgresError
├── DataFolderInUseError    another process runs a server on this folder
├── DataFolderError         the folder cannot be used as it is
└── ServerStartError        initdb or postgres failed; their output is in the message
    └── PortTakenError      another program took the port between its choice and its use
"""


class EmbeddedPostgresError(Exception):
    """The embedded server cannot do what was asked; the message says what to do."""


class DataFolderInUseError(EmbeddedPostgresError):
    """Another process runs a server on the same folder."""


class DataFolderError(EmbeddedPostgresError):
    """The folder cannot be used as it is: wrong version, owner, or content."""


class ServerStartError(EmbeddedPostgresError):
    """initdb or postgres failed."""


class PortTakenError(ServerStartError):
    """Another program took the port between the choice of it and its use."""

"""The error tree.

    AgentDistillError                 root; `str(error)` is one line a user can act on
    ├── UsageError                    the call was wrong: exit code 2
    │   ├── ConfigError               a setting: unknown key, wrong type, bad TOML
    │   ├── TaskFileError             a task file: missing, malformed, a bad row (names file and row)
    │   ├── EntryFileError            a knowledge entry: malformed, twice there, no provenance (file and line)
    │   ├── UnknownModelError         a model SPEC or catalog name nobody knows
    │   └── RunMismatchError          a RUN that was made with another configuration (names the field)
    ├── ClusterError                  no Ray, no cluster, no node that can work: exit code 1
    └── InfrastructureError           the world failed, not the call: exit code 1
        ├── ModelError                an engine or endpoint cannot answer
        │   ├── ModelBusyError        an endpoint turned a call away for now (429, 503)
        │   └── ContextOverflowError  a conversation does not fit into the model's context
        ├── NodeLostError             a node of a cluster is gone, and the attempts it was making with it
        ├── DownloadError             a catalog file cannot be had, or its checksum is wrong
        ├── SandboxError              a jail cannot start, or was lost between two steps
        ├── RetrieverError            a search service cannot start, or does not answer
        ├── KnowledgeBaseError        a knowledge base cannot be read or written (locked, full disk)
        ├── RunDirectoryError         a RUN cannot be read or written (damaged line, full disk, locked)
        ├── GradingError              the grader's own processes failed
        └── TrainingError             training cannot go on (no rows, NaN loss, full disk)
            └── ExportError           a model of a kind that cannot be written as GGUF

A model's mistake is never an exception: unparsable text, code that raises, code that kills its own
interpreter and a wrong answer are data in a Step. An attempt that met an InfrastructureError has
*failed*; it is written to failures.jsonl and tried again.
"""


class AgentDistillError(Exception):
    """Root of all errors raised on purpose. `remedy` says what to do about it, in one clause."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} ({remedy})" if remedy else message)
        self.message = message
        self.remedy = remedy


class UsageError(AgentDistillError):
    """The call was wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is unknown, of the wrong type, or its file cannot be read."""


class TaskFileError(UsageError):
    """A task file is missing, malformed or holds a bad row."""


class EntryFileError(UsageError):
    """A file of a knowledge base is malformed, or two of them contradict each other."""


class UnknownModelError(UsageError):
    """No catalog entry, file or endpoint answers to a model SPEC."""


class RunMismatchError(UsageError):
    """A RUN directory was made with another value of a field that shapes attempts."""


class ClusterError(AgentDistillError):
    """There is no cluster to work on, or no node of it is left: trying an attempt again is of no use."""


class InfrastructureError(AgentDistillError):
    """Something outside the call and the model's answer is broken."""


class ModelError(InfrastructureError):
    """A model engine or endpoint cannot answer."""


class ModelBusyError(ModelError):
    """An endpoint turned a call away for now (429, 503). `retry_after` is what it asked for, in seconds."""

    def __init__(self, message: str, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, remedy)
        self.retry_after = retry_after


class ContextOverflowError(ModelError):
    """A prompt and the tokens asked for do not fit into the model's context: no retry helps."""


class NodeLostError(InfrastructureError):
    """A node of a cluster is gone, and the attempts it was making with it."""


class DownloadError(InfrastructureError):
    """A catalog file cannot be fetched, or what was fetched is not the file that was promised."""


class SandboxError(InfrastructureError):
    """A sandbox cannot start, or was lost between two steps."""


class RetrieverError(InfrastructureError):
    """A search service cannot start, or cannot answer."""


class KnowledgeBaseError(InfrastructureError):
    """A knowledge base's folder or index cannot be read or written."""


class RunDirectoryError(InfrastructureError):
    """A RUN directory cannot be read or written."""


class GradingError(InfrastructureError):
    """The grader's own machinery failed; says nothing about the answer."""


class TrainingError(InfrastructureError):
    """Training cannot start or go on."""


class ExportError(TrainingError):
    """A model of a kind that cannot be written as GGUF; transformers still serves it."""

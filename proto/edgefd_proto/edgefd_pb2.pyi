from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Codec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODEC_UNSPECIFIED: _ClassVar[Codec]
    CODEC_FLOAT32: _ClassVar[Codec]
    CODEC_FLOAT16: _ClassVar[Codec]
    CODEC_UINT8: _ClassVar[Codec]
    CODEC_LABEL: _ClassVar[Codec]
    CODEC_UINT4: _ClassVar[Codec]
    CODEC_SIMPLEX15: _ClassVar[Codec]
    CODEC_INT8: _ClassVar[Codec]
CODEC_UNSPECIFIED: Codec
CODEC_FLOAT32: Codec
CODEC_FLOAT16: Codec
CODEC_UINT8: Codec
CODEC_LABEL: Codec
CODEC_UINT4: Codec
CODEC_SIMPLEX15: Codec
CODEC_INT8: Codec

class Knowledge(_message.Message):
    __slots__ = ("id_gaps", "width", "codec", "values", "weights", "kept", "classes", "rows", "runs", "weighted", "base", "removed_gaps")
    ID_GAPS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTED_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    REMOVED_GAPS_FIELD_NUMBER: _ClassVar[int]
    id_gaps: _containers.RepeatedScalarFieldContainer[int]
    width: int
    codec: Codec
    values: bytes
    weights: bytes
    kept: int
    classes: bytes
    rows: int
    runs: int
    weighted: bool
    base: bytes
    removed_gaps: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id_gaps: _Optional[_Iterable[int]] = ..., width: _Optional[int] = ..., codec: _Optional[_Union[Codec, str]] = ..., values: _Optional[bytes] = ..., weights: _Optional[bytes] = ..., kept: _Optional[int] = ..., classes: _Optional[bytes] = ..., rows: _Optional[int] = ..., runs: _Optional[int] = ..., weighted: bool = ..., base: _Optional[bytes] = ..., removed_gaps: _Optional[_Iterable[int]] = ...) -> None: ...

class RoundPlan(_message.Message):
    __slots__ = ("round", "id_gaps", "evaluate", "closing")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ID_GAPS_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    round: int
    id_gaps: _containers.RepeatedScalarFieldContainer[int]
    evaluate: bool
    closing: bool
    def __init__(self, round: _Optional[int] = ..., id_gaps: _Optional[_Iterable[int]] = ..., evaluate: bool = ..., closing: bool = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("client", "round", "knowledge", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KNOWLEDGE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    client: int
    round: int
    knowledge: Knowledge
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, client: _Optional[int] = ..., round: _Optional[int] = ..., knowledge: _Optional[_Union[Knowledge, _Mapping]] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Terms(_message.Message):
    __slots__ = ("method", "method_config", "codec", "seed", "n_classes", "proxy_sha256", "defence", "training", "selection", "distillation", "changes_above")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    METHOD_CONFIG_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    N_CLASSES_FIELD_NUMBER: _ClassVar[int]
    PROXY_SHA256_FIELD_NUMBER: _ClassVar[int]
    DEFENCE_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    DISTILLATION_FIELD_NUMBER: _ClassVar[int]
    CHANGES_ABOVE_FIELD_NUMBER: _ClassVar[int]
    method: str
    method_config: str
    codec: str
    seed: int
    n_classes: int
    proxy_sha256: str
    defence: str
    training: str
    selection: str
    distillation: str
    changes_above: float
    def __init__(self, method: _Optional[str] = ..., method_config: _Optional[str] = ..., codec: _Optional[str] = ..., seed: _Optional[int] = ..., n_classes: _Optional[int] = ..., proxy_sha256: _Optional[str] = ..., defence: _Optional[str] = ..., training: _Optional[str] = ..., selection: _Optional[str] = ..., distillation: _Optional[str] = ..., changes_above: _Optional[float] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("protocol", "client", "terms", "facts")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    client: int
    terms: Terms
    facts: DeviceFacts
    def __init__(self, protocol: _Optional[int] = ..., client: _Optional[int] = ..., terms: _Optional[_Union[Terms, _Mapping]] = ..., facts: _Optional[_Union[DeviceFacts, _Mapping]] = ...) -> None: ...

class DeviceFacts(_message.Message):
    __slots__ = ("version", "free_memory_mib", "free_disk_mib", "clock")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FREE_MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    FREE_DISK_MIB_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    version: str
    free_memory_mib: int
    free_disk_mib: int
    clock: float
    def __init__(self, version: _Optional[str] = ..., free_memory_mib: _Optional[int] = ..., free_disk_mib: _Optional[int] = ..., clock: _Optional[float] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("run", "client", "n_clients", "terms", "manifest_sha256", "session")
    RUN_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    N_CLIENTS_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    run: str
    client: int
    n_clients: int
    terms: Terms
    manifest_sha256: str
    session: bytes
    def __init__(self, run: _Optional[str] = ..., client: _Optional[int] = ..., n_clients: _Optional[int] = ..., terms: _Optional[_Union[Terms, _Mapping]] = ..., manifest_sha256: _Optional[str] = ..., session: _Optional[bytes] = ...) -> None: ...

class BundleRequest(_message.Message):
    __slots__ = ("session", "file", "offset")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    file: str
    offset: int
    def __init__(self, session: _Optional[bytes] = ..., file: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class BundleChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class TaskRequest(_message.Message):
    __slots__ = ("session", "after", "told", "held")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    TOLD_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    after: int
    told: bool
    held: bytes
    def __init__(self, session: _Optional[bytes] = ..., after: _Optional[int] = ..., told: bool = ..., held: _Optional[bytes] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("plan", "teacher", "held")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    TEACHER_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    plan: bytes
    teacher: bytes
    held: bytes
    def __init__(self, plan: _Optional[bytes] = ..., teacher: _Optional[bytes] = ..., held: _Optional[bytes] = ...) -> None: ...

class Idle(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class End(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class TaskReply(_message.Message):
    __slots__ = ("task", "idle", "end")
    TASK_FIELD_NUMBER: _ClassVar[int]
    IDLE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    task: Task
    idle: Idle
    end: End
    def __init__(self, task: _Optional[_Union[Task, _Mapping]] = ..., idle: _Optional[_Union[Idle, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("session", "run", "round", "report")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    run: str
    round: int
    report: bytes
    def __init__(self, session: _Optional[bytes] = ..., run: _Optional[str] = ..., round: _Optional[int] = ..., report: _Optional[bytes] = ...) -> None: ...

class SubmitReply(_message.Message):
    __slots__ = ("known",)
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    known: bool
    def __init__(self, known: bool = ...) -> None: ...

class ContributeRequest(_message.Message):
    __slots__ = ("protocol", "client", "rows", "dtype", "shape", "sha256", "offset", "samples")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    client: int
    rows: int
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    sha256: bytes
    offset: int
    samples: bytes
    def __init__(self, protocol: _Optional[int] = ..., client: _Optional[int] = ..., rows: _Optional[int] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., sha256: _Optional[bytes] = ..., offset: _Optional[int] = ..., samples: _Optional[bytes] = ...) -> None: ...

class ContributeReply(_message.Message):
    __slots__ = ("have", "known", "low", "high")
    HAVE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    have: int
    known: bool
    low: float
    high: float
    def __init__(self, have: _Optional[int] = ..., known: bool = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

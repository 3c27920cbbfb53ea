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
CODEC_UNSPECIFIED: Codec
CODEC_FLOAT32: Codec
CODEC_FLOAT16: Codec
CODEC_UINT8: Codec

class Knowledge(_message.Message):
    __slots__ = ("id_gaps", "width", "codec", "values", "weights")
    ID_GAPS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    id_gaps: _containers.RepeatedScalarFieldContainer[int]
    width: int
    codec: Codec
    values: bytes
    weights: bytes
    def __init__(self, id_gaps: _Optional[_Iterable[int]] = ..., width: _Optional[int] = ..., codec: _Optional[_Union[Codec, str]] = ..., values: _Optional[bytes] = ..., weights: _Optional[bytes] = ...) -> None: ...

class Training(_message.Message):
    __slots__ = ("rounds", "local_steps", "distill_epochs", "closing_epochs", "batch_size", "private_rows", "shift", "optimizer", "lr", "final_lr")
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    DISTILL_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    CLOSING_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_ROWS_FIELD_NUMBER: _ClassVar[int]
    SHIFT_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    LR_FIELD_NUMBER: _ClassVar[int]
    FINAL_LR_FIELD_NUMBER: _ClassVar[int]
    rounds: int
    local_steps: int
    distill_epochs: int
    closing_epochs: int
    batch_size: int
    private_rows: int
    shift: int
    optimizer: str
    lr: float
    final_lr: float
    def __init__(self, rounds: _Optional[int] = ..., local_steps: _Optional[int] = ..., distill_epochs: _Optional[int] = ..., closing_epochs: _Optional[int] = ..., batch_size: _Optional[int] = ..., private_rows: _Optional[int] = ..., shift: _Optional[int] = ..., optimizer: _Optional[str] = ..., lr: _Optional[float] = ..., final_lr: _Optional[float] = ...) -> None: ...

class RoundPlan(_message.Message):
    __slots__ = ("seed", "round", "id_gaps", "training", "evaluate")
    SEED_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ID_GAPS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    seed: int
    round: int
    id_gaps: _containers.RepeatedScalarFieldContainer[int]
    training: Training
    evaluate: bool
    def __init__(self, seed: _Optional[int] = ..., round: _Optional[int] = ..., id_gaps: _Optional[_Iterable[int]] = ..., training: _Optional[_Union[Training, _Mapping]] = ..., evaluate: bool = ...) -> None: ...

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

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
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

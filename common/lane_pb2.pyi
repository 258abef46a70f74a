from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FromRelay(_message.Message):
    __slots__ = ("hello", "reply", "failed", "beat")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    reply: Piece
    failed: Failed
    beat: Beat
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., reply: _Optional[_Union[Piece, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ...) -> None: ...

class FromCoordinator(_message.Message):
    __slots__ = ("welcome", "request", "bye", "beat")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    BYE_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    request: Piece
    bye: Bye
    beat: Beat
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., request: _Optional[_Union[Piece, _Mapping]] = ..., bye: _Optional[_Union[Bye, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("run", "request", "bytes", "life")
    RUN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    run: str
    request: int
    bytes: int
    life: bytes
    def __init__(self, run: _Optional[str] = ..., request: _Optional[int] = ..., bytes: _Optional[int] = ..., life: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("request", "bytes", "life")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    request: int
    bytes: int
    life: bytes
    def __init__(self, request: _Optional[int] = ..., bytes: _Optional[int] = ..., life: _Optional[bytes] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("request", "offset", "total", "data", "deflated")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DEFLATED_FIELD_NUMBER: _ClassVar[int]
    request: int
    offset: int
    total: int
    data: bytes
    deflated: bool
    def __init__(self, request: _Optional[int] = ..., offset: _Optional[int] = ..., total: _Optional[int] = ..., data: _Optional[bytes] = ..., deflated: _Optional[bool] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("request", "code")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    request: int
    code: str
    def __init__(self, request: _Optional[int] = ..., code: _Optional[str] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("away",)
    AWAY_FIELD_NUMBER: _ClassVar[int]
    away: bool
    def __init__(self, away: _Optional[bool] = ...) -> None: ...

class Bye(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

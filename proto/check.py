"""Check that the committed Python code is the code that protoc generates from edgefd.proto, or generate it (--write).

released.txt lists every released field, enum value and call, one per line; --release writes this file. Devices in the
field rely on them: a listed item must never change, but new items may be added. A test checks this.
"""

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
GENERATED = ("edgefd_pb2.py", "edgefd_pb2.pyi", "edgefd_pb2_grpc.py")


def generate(out: Path) -> None:
    """Run protoc and write the generated code into `out`."""
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    command = ["-m", "grpc_tools.protoc", f"-I{HERE}", *outputs]
    subprocess.run([sys.executable, *command, str(HERE / "edgefd_proto" / "edgefd.proto")], check=True)


def outdated() -> list[str]:
    """Return the names of committed files that differ from the code that protoc generates."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "edgefd_proto"
        return [
            name for name in GENERATED if not filecmp.cmp(fresh / name, HERE / "edgefd_proto" / name, shallow=False)
        ]


def interface() -> list[str]:
    """Return one line for each field, enum value and call of edgefd.proto, with everything that must not change."""
    from edgefd_proto import edgefd_pb2
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

    file = FileDescriptorProto()
    edgefd_pb2.DESCRIPTOR.CopyToProto(file)
    lines = []
    for message in file.message_type:
        for field in message.field:
            kind = field.type_name or FieldDescriptorProto.Type.Name(field.type)
            label = FieldDescriptorProto.Label.Name(field.label)
            presence = "optional" if field.proto3_optional else "oneof" if field.HasField("oneof_index") else "plain"
            lines.append(f"{message.name}.{field.name} = {field.number} {label} {kind} {presence}")
    for enum in file.enum_type:
        lines += [f"{enum.name}.{value.name} = {value.number}" for value in enum.value]
    for service in file.service:
        for call in service.method:
            output = f"{'stream ' if call.server_streaming else ''}{call.output_type}"
            lines.append(f"{service.name}.{call.name}({call.input_type}) returns {output}")
    return [f"{file.package}.{line}" for line in lines]


def changed(released: str) -> list[str]:
    """Return the lines of released.txt that are no longer true."""
    return sorted(set(released.split("\n")) - {""} - set(interface()))


if __name__ == "__main__":
    if "--write" in sys.argv:
        generate(HERE)
    elif "--release" in sys.argv:
        (HERE / "released.txt").write_text("\n".join(interface()) + "\n")
    elif names := outdated():
        sys.exit(f"{', '.join(names)}: not generated from the current edgefd.proto: run `make proto`")

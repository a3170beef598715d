"""Builds everything that is generated from the protos.

Run as `python -m pourtier_grpc.devtools.contract` (`make proto`); with `--check` it
writes nothing and fails where the committed files differ from what the protos say
(part of `make lint`). Nothing is fetched and no proto is vendored: Google's common
protos lie in site-packages as sources, `buf.validate` as a descriptor inside the
protovalidate wheel.
"""

from __future__ import annotations

import filecmp
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path

from google.protobuf import (
    descriptor_pb2,
    duration_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
)
from protovalidate._gen.buf.validate import validate_pb

from pourtier_grpc.devtools.generated import only_compares

ROOT = Path(__file__).parents[3]
PACKAGE = "pourtier/v1"
# In the package of the stubs, so that the installed service can read it.
DESCRIPTOR_SET = "pourtier/pourtier.binpb"
BASELINE = "baseline.binpb"
# Imported by nothing, but Envoy renders only the error details whose types it knows.
ERROR_DETAILS = ("google/rpc/error_details.proto", "google/rpc/status.proto")


class ContractError(Exception):
    """The contract does not compile, breaks a rule, or was not generated anew."""


def validate_descriptors() -> bytes:
    """The files that the protos import and that no installed package has as source.

    A serialized FileDescriptorSet: `buf.validate`, from protovalidate's wheel, and what
    it imports in turn.
    """
    files = descriptor_pb2.FileDescriptorSet()
    modules = (
        descriptor_pb2,
        duration_pb2,
        field_mask_pb2,
        struct_pb2,
        timestamp_pb2,
    )
    for module in modules:
        files.file.add().ParseFromString(module.DESCRIPTOR.serialized_pb)
    files.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    return files.SerializeToString()


def protos() -> list[str]:
    """The contract's files, relative to `protos/`, in a stable order."""
    found = sorted((ROOT / "protos" / PACKAGE).glob("*.proto"))
    return [f"{PACKAGE}/{path.name}" for path in found]


def generate(into: Path) -> None:
    """Writes stubs with types, and the descriptor set, below a folder.

    Raises ContractError, with the compiler's words, where the protos do not compile.
    """
    site_packages = Path(sysconfig.get_path("purelib"))
    imports = into / "imports.binpb"
    imports.write_bytes(validate_descriptors())
    (into / DESCRIPTOR_SET).parent.mkdir()
    sources = (
        f"--descriptor_set_in={imports}",
        f"--proto_path={ROOT / 'protos'}",
        f"--proto_path={site_packages}",
    )
    _protoc(
        *sources,
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={into / DESCRIPTOR_SET}",
        *protos(),
        *ERROR_DETAILS,
    )
    _protoc(
        *sources,
        f"--python_out={into}",
        f"--mypy_out={into}",
        f"--grpc_python_out={into}",
        f"--mypy_grpc_out={into}",
        *protos(),
    )
    imports.unlink()


def lint(descriptors: Path) -> None:
    """Holds the contract to buf's rules, and to the last release.

    `gen/baseline.binpb` is the contract of the last release; it moves with a release
    only. Raises ContractError, with buf's words, where a rule is broken.
    """
    image = str(descriptors)
    config = str(ROOT / "protos" / "buf.yaml")
    _run("buf", "lint", image, "--config", config, "--path", "pourtier")
    baseline = str(ROOT / "gen" / BASELINE)
    against = ("--against", baseline, "--config", config)
    _run("buf", "breaking", image, *against, "--path", "pourtier")


def differences(fresh: Path) -> list[str]:
    """The generated files that differ between a folder and `gen/`, sorted."""
    ours = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    theirs = {
        path.relative_to(ROOT / "gen")
        for path in (ROOT / "gen" / "pourtier").rglob("*.py*")
        if path.suffix in {".py", ".pyi"}
    } | {Path(DESCRIPTOR_SET)}
    return sorted(
        str(name)
        for name in ours | theirs
        if not _same(fresh / name, ROOT / "gen" / name)
    )


def compare(fresh: Path) -> None:
    """Raises ContractError where `gen/` is not what was just generated."""
    stale = differences(fresh)
    if stale:
        raise ContractError(f"gen/ is stale; run `make proto`: {', '.join(stale)}")


def main(arguments: Iterable[str] | None = None) -> int:
    """The command; answers 0, or 1 where the contract is not in order."""
    check = only_compares(__doc__, arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder)
            generate(fresh)
            if check:
                compare(fresh)
                lint(fresh / DESCRIPTOR_SET)
            else:
                _install(fresh)
    except ContractError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _install(fresh: Path) -> None:
    for name in differences(fresh):
        target = ROOT / "gen" / name
        if (fresh / name).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((fresh / name).read_bytes())
        else:
            target.unlink()


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and filecmp.cmp(one, other, shallow=False)


def _protoc(*arguments: str) -> None:
    _run(sys.executable, "-m", "grpc_tools.protoc", *arguments)


def _run(*command: str) -> None:
    # protoc's plugins and buf lie beside the interpreter.
    path = Path(sys.executable).parent
    program = command[0] if "/" in command[0] else str(path / command[0])
    done = subprocess.run(  # noqa: S603 - a fixed command of our own
        [program, *command[1:]],
        cwd=ROOT,
        env={"PATH": f"{path}:/usr/bin:/bin", "HOME": tempfile.gettempdir()},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ContractError(f"{' '.join(command[:2])}:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())

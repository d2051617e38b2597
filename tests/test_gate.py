"""The compilation gate: what the presets select is clean on sm_90, and each kind of fault is caught."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tinytsm import gate

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="needs triton"),
    pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter compiles nothing"),
]


@pytest.fixture(scope="module")
def compiled():
    """One kernel, compiled for sm_90, and its report."""
    case = next(c for c in gate.cases(full=False) if c.name.startswith("embed bwd"))
    with gate.offline(90) as built:
        case.launch()
    return built[0], gate.inspect(built[0], case=case.name, arch=90)


def test_presets_compile_clean_on_sm_90():
    reports = list(gate.reports(archs=[90], full=False))
    assert [(r.case, r.faults) for r in reports if r.faults] == []
    assert {r.case.split()[0] for r in reports} == {"embed", "loss", "causal", "feature"}
    assert all(r.matrix.startswith("HGMMA") and r.registers > 0 for r in reports)


def test_embedding_multiplies_each_row_once_on_sm_90():
    # where four warps hold all rows, four more are given copies, and products of 8 columns
    for case in gate.cases(full=True):
        if case.name.startswith("embed") and "P64" in case.name and "fp16" not in case.name:
            with gate.offline(90) as built:
                case.launch()
            (kernel,) = built
            layouts = re.findall(r"warpsPerCTA = \[(\d+), 1\], instrShape", kernel.asm["ttgir"])
            assert layouts and {int(warps) for warps in layouts} == {4}, case.name
            assert "m64n8k" not in kernel.asm["ptx"], case.name


def test_report_reads_the_machine_code(compiled):
    kernel, report = compiled
    assert report.kernel == "_embed_bwd_kernel" and report.arch == 90
    assert report.warps == kernel.metadata.num_warps and report.shared == kernel.metadata.shared
    assert report.stack == report.spills == 0


def test_too_much_shared_memory_is_a_fault(compiled, monkeypatch):
    kernel, report = compiled
    monkeypatch.setitem(gate.SHARED_LIMIT, 90, report.shared - 1)
    assert gate.inspect(kernel, case="", arch=90).faults == (
        f"shared memory over {report.shared - 1} bytes",
    )


def test_a_dot_without_tensor_cores_is_a_fault(compiled, monkeypatch):
    monkeypatch.setitem(gate.TENSOR_CORES, 90, "UTCHMMA")
    assert gate.inspect(compiled[0], case="", arch=90).faults == ("no UTCHMMA",)


def test_spills_are_a_fault():
    import torch
    from triton import jit
    from triton import language as tl

    @jit
    def greedy(x, out, N: tl.constexpr):
        # one warp cannot hold a 64 x 256 accumulator: 512 registers a thread
        o_m, o_n = tl.arange(0, 64), tl.arange(0, N)
        acc = tl.zeros((64, N), tl.float32)
        for k in range(4):
            a = tl.load(x + o_m[:, None] * 64 + k * 16 + tl.arange(0, 16)[None, :])
            b = tl.load(x + (k * 16 + tl.arange(0, 16)[:, None]) * N + o_n[None, :])
            acc = tl.dot(a, b, acc)
        tl.store(out + o_m[:, None] * N + o_n[None, :], acc)

    x = torch.empty(1 << 16, dtype=torch.bfloat16, device="meta")
    with gate.offline(80) as built:
        greedy[(1,)](x, x.float(), N=256, num_warps=1, enable_fp_fusion=True)
    report = gate.inspect(built[0], case="greedy", arch=80)
    assert report.stack > 0 and report.faults == (f"spills {report.stack} bytes",)


def test_full_matrix_holds_every_tile_of_dispatch():
    names = {case.name for case in gate.cases(full=True)}
    assert {c.name for c in gate.cases(full=False)} <= names
    for dtype in ("fp32", "bf16", "fp16"):
        for patch in (16, 32, 64):
            for kind in ("embed bwd P{} {}", "loss fwd P{} {}", "loss bwd P{} {}"):
                assert kind.format(patch, dtype) in names
            for tokens in (16, 64):
                assert f"embed fwd P{patch} N{tokens} {dtype}" in names


def test_command_prints_a_table_and_one_json_line(capsys, monkeypatch):
    cases = list(gate.cases(full=False))[:1]
    monkeypatch.setattr(gate, "cases", lambda *, full: iter(cases))
    assert gate.main(["--arch", "90"]) == 0
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    assert summary["kernels"] == 1 and summary["faulty"] == 0
    assert cases[0].name in lines[2]

    monkeypatch.setitem(gate.SHARED_LIMIT, 90, 1)
    assert gate.main(["--arch", "90"]) == 1
    assert "shared memory over 1 bytes" in capsys.readouterr().out


def test_what_does_not_compile_is_a_fault(monkeypatch):
    def broken():
        raise RuntimeError("PassManager::run failed")

    monkeypatch.setattr(gate, "cases", lambda *, full: iter([gate.Case("broken", broken)]))
    (report,) = gate.reports(archs=[90], full=False)
    assert report.faults == ("no code: RuntimeError('PassManager::run failed')",)


def test_the_interpreter_is_refused():
    code = "from tinytsm import gate\nwith gate.offline(90): pass"
    result = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert "unset TRITON_INTERPRET" in result.stderr
